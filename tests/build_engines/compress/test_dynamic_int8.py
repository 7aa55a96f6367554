from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest


@pytest.fixture(scope="session")
def int8(
    tiny_build: Callable[..., Any], build_recipe: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any]:
    """The same model in fp32 and in int8; the export is shared."""
    fp32 = tiny_build("bert", "embedding")
    recipe = fp32.context.recipe
    keys = {**recipe.model_dump(), "precision": "int8"}
    return fp32, build_recipe(into=tmp_path_factory.mktemp("int8"), **keys)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_it_is_another_model_and_still_the_same(int8: tuple[Any, Any], engine: str) -> None:
    parity = int8[1].report.step("check").figures[engine]
    # Random weights of width 32 are a hard case; a trained model stays above 0.98.
    assert 0.95 < parity["min_cosine"] <= parity["mean_cosine"]
    assert parity["max_difference"] > 1e-4, "nothing was quantized"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_it_is_smaller(int8: tuple[Any, Any], engine: str) -> None:
    sizes = [built.context.candidates[engine].compiled.folder for built in int8]
    weights = {"onnxruntime": "model.onnx", "openvino": "model.bin"}[engine]
    fp32, small = ((folder / weights).stat().st_size for folder in sizes)
    assert small < fp32


def test_the_export_was_shared(int8: tuple[Any, Any]) -> None:
    assert int8[1].report.step("export").status == "reused"


def test_every_linear_layer_is_quantized_by_column(int8: tuple[Any, Any]) -> None:
    compiled = int8[1].context.candidates["onnxruntime"].compiled
    graph = onnx.load(compiled.folder / compiled.model_file).graph
    quantized = [node for node in graph.node if node.op_type == "MatMulInteger"]
    assert len(quantized) == 2 * 6  # query, key, value, output, and two of the feed-forward, in each layer
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    scales = [tensor for name, tensor in initializers.items() if name.endswith("_scale")]
    for node in quantized:
        weight = initializers[node.input[1]]
        assert weight.data_type == onnx.TensorProto.INT8
    assert any(list(scale.dims) == [32] for scale in scales)


def test_the_engine_is_told(int8: tuple[Any, Any]) -> None:
    repository: Path = int8[1].context.repository
    text = (repository / "bert-embedding_engine" / "config.pbtxt").read_text()
    assert 'string_value: "int8"' in text
