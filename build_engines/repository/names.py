"""Names of the models that one recipe gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelNames:
    """The ensemble and its parts.

    Attributes:
        ensemble: What clients call; the recipe's ``name``.
    """

    ensemble: str

    @property
    def tokenizer(self) -> str:
        """Text to token ids."""
        return f"{self.ensemble}_tokenizer"

    @property
    def engine(self) -> str:
        """Token ids to vectors or scores."""
        return f"{self.ensemble}_engine"

    @property
    def all(self) -> tuple[str, str, str]:
        """Parts first: an ensemble must never be ahead of what it is made of."""
        return (self.tokenizer, self.engine, self.ensemble)
