"""Weights in fewer bits: which layers get how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino as ov


def weights(folder: Path) -> Counter[str]:
    """Bytes of the constants of two axes and more, by type."""
    model = ov.Core().read_model(folder / "openvino_model.xml")
    found: Counter[str] = Counter()
    for operation in model.get_ops():
        if operation.get_type_name() == "Constant" and len(operation.get_output_shape(0)) > 1:
            size = 1
            for length in operation.get_output_shape(0):
                size *= length
            if size >= 1024:
                found[operation.get_element_type().get_type_name()] += size
    return found


def made(builder: Any, precision: str) -> Path:
    builder(precision=precision, until="compress")
    assert builder.context is not None
    return builder.context.candidates[f"openvino-genai-{precision}"].folder


def test_bits_of_the_weights(toy: Any, tmp_path: Path) -> None:
    builder = toy.copied(tmp_path)
    single = weights(made(builder, "fp32"))
    assert set(single) == {"f32"}
    assert weights(made(builder, "fp16")) == Counter({"f16": single["f32"]})
    eight = weights(made(builder, "int8-weights"))
    assert set(eight) == {"u8"} and eight["u8"] == single["f32"]
    four = weights(made(builder, "int4-weights"))
    # Embedding and head keep 8 bits; their ids are what everything hangs on.
    assert set(four) >= {"i4", "u8"} and four["u8"] < eight["u8"]
    assert four["i4"] + four["u8"] == single["f32"]


def test_layers_that_no_group_divides_stay_in_eight_bits(
    tiny_family: Callable[..., Path], new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny_family("qwen2", hidden_size=48, intermediate_size=128)
    builder = new_builder(model, tmp_path)
    report = builder(precision="int4-weights", until="compress")
    figures = report.figures("compress")["openvino-genai-int4-weights"]
    assert figures["group_size"] == 32
    assert "layers of 48 inputs stay INT8" in figures["note"]
    assert any("48 inputs" in note for note in (report.step("compress") or report.steps[0]).notes)
    assert builder.context is not None
    found = weights(builder.context.candidates["openvino-genai-int4-weights"].folder)
    assert found["i4"] == 2 * 48 * 128  # the layers back from 128 channels, in both blocks


def test_group_size_divides_all_layers_if_one_does(toy: Any) -> None:
    assert toy.context is not None and toy.context.exported is not None
    from build_engines.generation.compress import linear_inputs

    assert linear_inputs(ov.Core().read_model(toy.context.exported / "openvino_model.xml")) == {64, 128}
