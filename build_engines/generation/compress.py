"""Weights of the IR in fewer bits: by halves, or by NNCF's weight compression."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import openvino as ov

from build_engines.generation.export import IR
from build_engines.repository.assemble import link_or_copy
from tritonforge.errors import EngineError, first_line
from tritonforge.recipe import GeneratorPrecision

GROUPS = (128, 64, 32)
"""Weights that share a scale in INT4: the largest that divides the inputs of most layers."""


def compress(exported: Path, precision: GeneratorPrecision, folder: Path) -> dict[str, Any]:
    """Write the IR in one precision.

    Args:
        exported: Folder of the float32 IR.
        precision: Of the weights.
        folder: Empty; gets the files.

    Returns:
        What a report should tell: share of the weights by bits, group size.

    Raises:
        EngineError: If NNCF cannot compress the graph.
    """
    if precision == "fp32":
        for path in exported.iterdir():
            link_or_copy(path, folder / path.name)
        return {}
    model = ov.Core().read_model(exported / IR)
    facts: dict[str, Any] = {}
    if precision in {"int8-weights", "int4-weights"}:
        try:
            model, facts = _fewer_bits(model, precision)
        except (RuntimeError, ValueError) as error:
            raise EngineError(
                f"weights cannot be compressed: {first_line(error)}",
                where=f"precision {precision}",
                mend="set precision: fp16",
            ) from error
    # What is not compressed (norms, biases) is halved as well.
    ov.save_model(model, folder / IR, compress_to_fp16=True)
    return facts


def _fewer_bits(model: Any, precision: GeneratorPrecision) -> tuple[Any, dict[str, Any]]:
    """INT8 by output channel, or INT4 in groups with INT8 for embedding, head, and what no group divides."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    options: dict[str, Any] = {"mode": nncf.CompressWeightsMode.INT8_ASYM}
    facts: dict[str, Any] = {}
    if precision == "int4-weights":
        inputs = linear_inputs(model)
        group = next((g for g in GROUPS if all(size % g == 0 for size in inputs)), GROUPS[-1])
        odd = sorted({size for size in inputs if size % group})
        facts = {"group_size": group}
        if odd:
            facts["note"] = f"layers of {', '.join(map(str, odd))} inputs stay INT8: no group of {group} fits"
        options = {
            "mode": nncf.CompressWeightsMode.INT4_SYM,
            "group_size": group,
            "ratio": 1.0,
            "advanced_parameters": nncf.AdvancedCompressionParameters(
                group_size_fallback_mode=nncf.GroupSizeFallbackMode.IGNORE
            ),
        }
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return nncf.compress_weights(model, **options), facts


def linear_inputs(model: Any) -> set[int]:
    """Input widths of the layers whose weights are constants."""
    found = set()
    for operation in model.get_ops():
        if operation.get_type_name() == "MatMul":
            weight = operation.input_value(1)
            if weight.get_node().get_type_name() in {"Constant", "Convert"} and len(weight.get_shape()) == 2:
                transposed = operation.get_attributes()["transpose_b"]
                found.add(int(weight.get_shape()[1 if transposed else 0]))
    return found
