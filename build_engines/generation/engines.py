"""Which engine serves a generator, and in which precisions."""

from __future__ import annotations

import importlib.util

from tritonforge.errors import RecipeError
from tritonforge.recipe import GeneratorEngine, GeneratorPrecision, Recipe
from tritonforge.server.plans import visible_gpus

_OFFERED: dict[GeneratorEngine, tuple[GeneratorPrecision, ...]] = {
    "openvino-genai": ("fp32", "fp16", "int8-weights", "int4-weights"),
    # It reads the safetensors in the type it is told; smaller weights come from a checkpoint made for it.
    "tensorrt-llm": ("fp32", "fp16", "bf16"),
}
_AUTO: dict[GeneratorEngine, tuple[GeneratorPrecision, ...]] = {
    "openvino-genai": ("fp16", "int8-weights", "int4-weights"),
    "tensorrt-llm": ("bf16",),
}
_MENDS: dict[GeneratorEngine, str] = {
    "openvino-genai": "its weights are fp32, fp16, int8-weights or int4-weights; bfloat16 is a way to "
    "compute, `generation.compute: bf16`",
    "tensorrt-llm": "its weights are fp32, fp16 or bf16; for smaller ones give a model that was quantized "
    "for it, with precision: bf16",
}


def choose_engine(recipe: Recipe) -> GeneratorEngine:
    """The engine that the recipe names, or the one for this machine.

    Raises:
        RecipeError: If a recipe for encoders comes here.
    """
    if recipe.engine == "openvino-genai" or recipe.engine == "tensorrt-llm":  # in two, as mypy narrows
        return recipe.engine
    if recipe.engine != "auto":
        raise RecipeError(f"engine {recipe.engine} does not generate text", where="engine")
    has_library = importlib.util.find_spec("tensorrt_llm") is not None
    return "tensorrt-llm" if has_library and visible_gpus() else "openvino-genai"


def wanted_precisions(recipe: Recipe, engine: GeneratorEngine) -> tuple[GeneratorPrecision, ...]:
    """Precisions to build.

    Raises:
        RecipeError: If the engine does not offer the one that is asked for.
    """
    if recipe.precision == "auto":
        return _AUTO[engine]
    found = tuple(name for name in _OFFERED[engine] if name == recipe.precision)
    if not found:
        raise RecipeError(
            f"{engine} does not serve weights in {recipe.precision}", where="precision", mend=_MENDS[engine]
        )
    return found
