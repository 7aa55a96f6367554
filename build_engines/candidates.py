"""Which engines in which precisions a recipe wants tried."""

from __future__ import annotations

import importlib.util

from build_engines.engines import ENGINES
from tritonforge.errors import RecipeError
from tritonforge.recipe import EngineName, Precision, Recipe
from tritonforge.server.plans import visible_gpus

_CPU_ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")
_NEEDS_TEXT: frozenset[Precision] = frozenset({"int8", "fp8"})
_AUTO: dict[EngineName, tuple[Precision, ...]] = {
    # 4-bit weights save memory, not time: served when asked for by name.
    "onnxruntime": ("fp32", "int8", "int8-dynamic"),
    "openvino": ("fp32", "bf16", "int8", "int8-dynamic"),
    "tensorrt": ("fp32", "fp16", "int8"),
}


def wanted(recipe: Recipe, has_text: bool) -> list[tuple[EngineName, Precision]]:
    """Engines and precisions to compile, each engine's float32 first as the measure of the others.

    Args:
        recipe: ``engine`` and ``precision``, either of which may be ``auto``.
        has_text: Whether there is text to calibrate on; without it ``auto`` leaves out what needs it.

    Raises:
        RecipeError: If no engine that the recipe allows knows the precision.
    """
    found: list[tuple[EngineName, Precision]] = []
    for name in _engines(recipe):
        if recipe.precision == "auto":
            tried = [p for p in _AUTO[name] if has_text or p not in _NEEDS_TEXT]
        elif recipe.precision in ENGINES[name].precisions:
            tried = list(dict.fromkeys(("fp32", recipe.precision)))
        else:
            continue
        found += [(name, precision) for precision in tried]
    if not found:
        raise RecipeError(
            f"{recipe.engine} does not serve {recipe.precision}",
            where="precision",
            mend="; ".join(f"{name}: {', '.join(engine.precisions)}" for name, engine in ENGINES.items()),
        )
    return found


def _engines(recipe: Recipe) -> tuple[EngineName, ...]:
    """The engine that the recipe names, or all that this machine can run."""
    if recipe.encoder_engine != "auto":
        return (recipe.encoder_engine,)
    # What is built for the edge runs elsewhere than here, on a machine without a GPU.
    return ("tensorrt",) if recipe.target != "edge" and _has_tensorrt() else _CPU_ENGINES


def _has_tensorrt() -> bool:
    """Whether this is a machine to build TensorRT engines on: the library and an NVIDIA GPU."""
    return importlib.util.find_spec("tensorrt") is not None and bool(visible_gpus())
