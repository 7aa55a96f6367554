"""Tiny generators of several families, and a builder for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from build_engines.generation.context import GenerationContext
from build_engines.pipeline import any_context, build
from build_engines.report import BuildReport
from tritonforge.recipe import Recipe

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2Config", {"num_key_value_heads": 2}),
    "qwen3": ("Qwen3Config", {"num_key_value_heads": 2, "head_dim": 32}),
    "phi": ("PhiConfig", {}),
    "gpt2": ("GPT2Config", {}),
    "mistral": ("MistralConfig", {"num_key_value_heads": 2, "sliding_window": 96}),
    "gpt_neox": ("GPTNeoXConfig", {}),
    "mixtral": ("MixtralConfig", {"num_key_value_heads": 2, "num_local_experts": 4}),
    "bloom": ("BloomConfig", {}),
}


class Builder:
    """Builds a tiny generator, each time with other settings, over one store of artefacts."""

    def __init__(self, model: Path, root: Path) -> None:
        self.model = model
        self.root = root
        self.repository = root / "repository"
        self.context: GenerationContext | None = None

    def recipe(self, **keys: Any) -> Recipe:
        base = {"name": "toy", "model": str(self.model), "task": "generation", "threads": {"engine": 1}}
        return Recipe.model_validate({**base, **keys})

    def __call__(
        self, *, until: str | None = None, rerun: str | None = None, force: bool = False, **keys: Any
    ) -> BuildReport:
        context = any_context(
            self.recipe(**keys), Path("toy.yaml"), self.repository, self.root / "build", rerun, force
        )
        assert isinstance(context, GenerationContext)
        self.context = context
        return build(context, until)

    def copied(self, root: Path) -> Builder:
        """The same with its artefacts so far, which may then be spoilt."""
        shutil.copytree(self.root, root / "copy")
        return Builder(self.model, root / "copy")


@pytest.fixture(scope="session")
def new_builder() -> type[Builder]:
    """Makes a builder of a model, with a folder of its own."""
    return Builder


@pytest.fixture(scope="session")
def toy(tiny_generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """The tiny Llama, built and published once."""
    builder = Builder(tiny_generator, tmp_path_factory.mktemp("toy"))
    builder()
    return builder


@pytest.fixture(scope="session")
def tiny_family(tiny_generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a random model of a family, with the tiny Llama's tokenizer and template."""
    import torch
    import transformers

    def make(family: str, **config: Any) -> Path:
        config_class, sizes = FAMILIES[family]
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_generator)
        settings = {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 512,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        if family in {"gpt2", "bloom"}:
            del settings["intermediate_size"]
        torch.manual_seed(7)
        made = getattr(transformers, config_class)(**{**settings, **sizes, **config})
        model = transformers.AutoModelForCausalLM.from_config(made)
        with torch.no_grad():  # wide enough that attention and positions decide what comes next
            for weights in model.parameters():
                weights.add_(torch.randn_like(weights) * 0.2)
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make
