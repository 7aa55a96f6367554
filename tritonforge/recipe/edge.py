"""``target: edge``: what it bounds, and the other defaults that it stands for.

A preset changes defaults and nothing else: every key that the recipe names stays as it is, and the printed
recipe shows what it came to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from tritonforge.recipe.kinds import PositiveInt
from tritonforge.recipe.sections import Section

LEAST_MEMORY_MIB = 1024
"""Under that tritonserver itself does not start: the stacks of its threads alone are reserved with 0.7 GB."""

EDGE_PRECISIONS = ("int8", "int8-dynamic", "int8-weights", "int4-weights")

_COMMON: Mapping[str, Any] = {
    "threads": {"tokenizer": 1, "engine": 4},
    "limits": {"max_text_bytes": 1 << 16},
}
_ENCODER: Mapping[str, Any] = {
    **_COMMON,
    "stages": "fused",  # a process fewer
    # Activations grow with the tokens of a run, and so do the kernels that OpenVINO keeps for each count.
    "batching": {"max_batch_size": 16, "token_budget": 1024},
    # Smaller weights are wanted for their size; float32 may well be as fast.
    "gate": {"min_speedup": 0.0},
}
_GENERATOR: Mapping[str, Any] = {
    **_COMMON,
    "engine": "openvino-genai",
    "precision": "int8-weights",
    "generation": {"max_num_seqs": 4},
}


class Edge(Section):
    """What a model may take on a small machine; counted for `target: edge` alone."""

    max_model_mb: PositiveInt = Field(
        default=500, description="megabytes of the published files; a build that exceeds it is refused"
    )
    max_memory_mib: Annotated[int, Field(ge=LEAST_MEMORY_MIB)] = Field(
        default=2048,
        description="memory of server and models together: estimated by the build, enforced by "
        "`tritonforge serve`",
    )


def with_edge_defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what ``target: edge`` means where the recipe is silent."""
    if data.get("task") == "generation":
        return _filled(data, _GENERATOR)
    calibration = data.get("calibration")
    has_text = isinstance(calibration, Mapping) and calibration.get("texts") is not None
    return _filled(data, {**_ENCODER, "precision": "int8" if has_text else "int8-weights"})


def _filled(data: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` over ``defaults``, section by section."""
    filled = dict(data)
    for key, default in defaults.items():
        value = filled.get(key, default)
        both = isinstance(default, Mapping) and isinstance(value, Mapping)
        filled[key] = {**default, **value} if both else value
    return filled
