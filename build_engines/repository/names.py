"""Names of the models that one recipe gives."""

from __future__ import annotations

from dataclasses import dataclass

from tritonforge.recipe import EngineName, Recipe


@dataclass(frozen=True)
class ModelNames:
    """The ensemble and its parts.

    Attributes:
        ensemble: What clients call; the recipe's ``name``.
        fans_out: Whether the engine takes one text a request, as Triton's TensorRT backend does, so that a
            model between tokenizer and engine sends it the rows of a request one by one.
        caches: Whether Triton keeps answers, which a model inside the ensemble does.
        fused: Whether the engine tokenizes too.
    """

    ensemble: str
    fans_out: bool = False
    caches: bool = False
    fused: bool = False

    @classmethod
    def of(cls, name: str, engine: EngineName, *, caches: bool = False, fused: bool = False) -> ModelNames:
        """The models of a recipe that an engine serves."""
        return cls(name, fans_out=engine == "tensorrt", caches=caches, fused=fused)

    @classmethod
    def of_recipe(cls, recipe: Recipe, engine: EngineName) -> ModelNames:
        """The same, as the recipe wants its models to be."""
        return cls.of(recipe.name, engine, caches=recipe.cache.enabled, fused=recipe.stages == "fused")

    @property
    def tokenizer(self) -> str:
        """Text to token ids."""
        return f"{self.ensemble}_tokenizer"

    @property
    def engine(self) -> str:
        """Token ids to vectors or scores; fused, texts to them."""
        return f"{self.ensemble}_engine"

    @property
    def tokenizing(self) -> str:
        """The model whose versions hold ``tokenizer.json``."""
        return self.engine if self.fused else self.tokenizer

    @property
    def fanout(self) -> str:
        """Many rows of token ids to as many requests to the engine, and back."""
        return f"{self.ensemble}_fanout"

    @property
    def cached(self) -> str:
        """An ensemble within the ensemble, whose answers Triton keeps."""
        return f"{self.ensemble}_cached"

    @property
    def all(self) -> tuple[str, ...]:
        """Parts first: an ensemble must never be ahead of what it is made of."""
        between = ((self.fanout,) if self.fans_out else ()) + ((self.cached,) if self.caches else ())
        first = () if self.fused else (self.tokenizer,)
        return (*first, self.engine, *between, self.ensemble)

    @property
    def possible(self) -> tuple[str, ...]:
        """Every name that a build of the recipe with any engine may have published."""
        return ModelNames(self.ensemble, fans_out=True, caches=True).all
