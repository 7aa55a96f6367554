from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest

from build_engines.pipeline import build, make_context

NAME = "bert-compressed"
ENGINES = ["onnxruntime", "openvino"]


@pytest.fixture(scope="session")
def compressed(
    tiny_build: Callable[..., Any],
    build_recipe: Callable[..., Any],
    build_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Any]:
    """The tiny model in another precision beside fp32, built as far as it is checked.

    All over one store of artefacts: only what differs is made anew.
    """
    built = tiny_build("bert", "embedding").context
    shutil.copytree(built.store.root, build_root / NAME / "artifacts")

    @cache
    def make(precision: str) -> Any:
        keys = {**built.recipe.model_dump(), "precision": precision, "name": NAME}
        return build_recipe(into=tmp_path_factory.mktemp("x"), until="check", **keys)

    return make


# Random weights of width 32 are a hard case; a trained model loses far less.
@pytest.mark.parametrize(
    ("precision", "floor"), [("int8-dynamic", 0.95), ("int8-weights", 0.99), ("int4-weights", 0.8)]
)
@pytest.mark.parametrize("engine", ENGINES)
def test_it_is_another_model_and_still_the_same(
    compressed: Callable[[str], Any], engine: str, precision: str, floor: float
) -> None:
    parity = compressed(precision).report.step("check").figures[f"{engine}-{precision}"]
    assert floor < parity["min_cosine"] <= parity["mean_cosine"]
    assert parity["max_difference"] > 1e-4, "nothing was quantized"


@pytest.mark.parametrize("engine", ENGINES)
def test_it_is_smaller(compressed: Callable[[str], Any], engine: str) -> None:
    weights = {"onnxruntime": "model.onnx", "openvino": "model.bin"}[engine]

    def size(precision: str) -> int:
        candidates = compressed(precision).context.candidates
        return (candidates[f"{engine}-{precision}"].compiled.folder / weights).stat().st_size

    candidates = compressed("int8-dynamic").context.candidates
    fp32 = (candidates[f"{engine}-fp32"].compiled.folder / weights).stat().st_size
    assert size("int4-weights") < size("int8-weights") < fp32
    assert size("int8-dynamic") < fp32


def test_bfloat16_rounds_as_it_loads(compressed: Callable[[str], Any]) -> None:
    built = compressed("bf16")
    parity = built.report.step("check").figures["openvino-bf16"]
    assert parity["min_cosine"] > 0.99
    folders = [built.context.candidates[f"openvino-{p}"].compiled.folder for p in ("fp32", "bf16")]
    assert (folders[0] / "model.bin").read_bytes() == (folders[1] / "model.bin").read_bytes()
    assert "onnxruntime-bf16" not in built.context.candidates


def test_every_linear_layer_is_quantized_by_column(compressed: Callable[[str], Any]) -> None:
    compiled = compressed("int8-dynamic").context.candidates["onnxruntime-int8-dynamic"].compiled
    graph = onnx.load(compiled.folder / compiled.model_file).graph
    quantized = [node for node in graph.node if node.op_type == "MatMulInteger"]
    assert len(quantized) == 2 * 6  # query, key, value, output, and two of the feed-forward, in each layer
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    scales = [tensor for name, tensor in initializers.items() if name.endswith("_scale")]
    for node in quantized:
        weight = initializers[node.input[1]]
        assert weight.data_type == onnx.TensorProto.INT8
    assert any(list(scale.dims) == [32] for scale in scales)


def test_the_engine_is_told(compressed: Callable[[str], Any], build_root: Path, tmp_path: Path) -> None:
    """A width of 32 gains nothing from INT8, so it is forced."""
    recipe = compressed("int8-dynamic").context.recipe
    build(make_context(recipe, Path("toy.yaml"), tmp_path / "models", build_root, force=True))
    text = (tmp_path / "models" / f"{NAME}_engine" / "config.pbtxt").read_text()
    assert 'string_value: "int8-dynamic"' in text
