from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from build_engines.check.lint import RULES, LintGraph
from build_engines.check.lint.rules import Case
from build_engines.compress.half import HalfReport, fit, to_half
from python_backends.packing import TokenBatch, pack, pad
from tritonforge.errors import EngineError

PACKED = ("bert", "mpnet", "modernbert", "qwen3")
PADDED = ("deberta-v2",)
NARROW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def tiny_export(tiny_build: Callable[[str, str], Any]) -> Callable[..., Path]:
    """The float32 graph of a build that tests share: see tests/order.py."""

    def exported(architecture: str, task: str = "embedding") -> Path:
        path: Path = tiny_build(architecture, task).context.exported
        return path

    return exported


@lru_cache(maxsize=2)
def load(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path: Path, feed: dict[str, Any]) -> NDArray[np.float32]:
    session = load(path)
    names = {one.name for one in session.get_inputs()}
    (found,) = session.run(None, {name: array for name, array in feed.items() if name in names})
    assert found.dtype == np.float32
    return found


def run_of(lengths: list[int], vocabulary: int, layout: str = "packed") -> dict[str, Any]:
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    tokens = rng.integers(5, vocabulary, offsets[-1]).astype(np.int32)
    batch = TokenBatch(tokens, offsets, np.asarray(lengths))
    every = np.arange(len(lengths))
    return dict(pack(batch, every) if layout == "packed" else pad(batch, every, 0))


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / norms


def findings(path: Path, *names: str) -> list[str]:
    case = Case(LintGraph.of(path))
    return [str(finding) for name in names for finding in RULES[name](case)]


@pytest.fixture(scope="module")
def minilm_half(minilm_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HalfReport]:
    target = tmp_path_factory.mktemp("half") / "minilm.onnx"
    return target, to_half(minilm_onnx, target, "fp16")


@pytest.fixture(scope="module")
def minilm_qdq(
    minilm_onnx: Path, insert_qdq: Callable[..., onnx.ModelProto], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """MiniLM with quantizers in float32; the ranges are so wide that nothing is clipped."""
    path = tmp_path_factory.mktemp("qdq") / "minilm.onnx"
    onnx.save(insert_qdq(onnx.load(minilm_onnx)), path)
    return path


@pytest.mark.parametrize(
    "lengths",
    [[1], [512], [16] * 64, list(range(1, 128, 6))],
    ids=["one token", "longest", "64 sequences", "mixed"],
)
def test_minilm_keeps_its_numbers(
    minilm_onnx: Path, minilm_half: tuple[Path, HalfReport], lengths: list[int]
) -> None:
    feed = run_of(lengths, 30_000)
    exact, half = run(minilm_onnx, feed), run(minilm_half[0], feed)
    assert cosines(exact, half).min() > 0.99999
    assert np.abs(exact - half).max() > 1e-6, "nothing was narrowed"


def test_minilm_weighs_half_and_nothing_was_clamped(
    minilm_onnx: Path, minilm_half: tuple[Path, HalfReport]
) -> None:
    path, report = minilm_half
    assert path.stat().st_size < 0.51 * minilm_onnx.stat().st_size
    assert report.clamped() == ()
    assert report.casts == 1, "one Cast, in front of the pooling"


@pytest.mark.parametrize("architecture", PACKED + PADDED)
def test_tiny_models_keep_their_numbers(
    tiny_export: Callable[..., Path], architecture: str, tmp_path: Path
) -> None:
    source = tiny_export(architecture)
    to_half(source, tmp_path / "half.onnx", "fp16")
    feed = run_of([64] * 4 + list(range(1, 61)), 390, "packed" if architecture in PACKED else "padded")
    assert cosines(run(source, feed), run(tmp_path / "half.onnx", feed)).min() > 0.9999


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_classifiers_give_float32_scores(
    tiny_export: Callable[..., Path], architecture: str, tmp_path: Path
) -> None:
    source = tiny_export(architecture, "classification")
    report = to_half(source, tmp_path / "half.onnx", "fp16")
    feed = run_of([64] * 4 + list(range(1, 61)), 390)
    exact, half = run(source, feed), run(tmp_path / "half.onnx", feed)
    # Logits of some tens: random weights make a hard case.
    assert np.abs(exact - half).max() < 0.03
    assert half.sum(axis=1) == pytest.approx(1, abs=1e-6), "softmax was narrowed"
    assert any("softmax" in name for name in report.wide)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "qwen3", "deberta-v2"])
def test_types_are_strict(
    tiny_export: Callable[..., Path], architecture: str, dtype: Any, tmp_path: Path
) -> None:
    target = tmp_path / "half.onnx"
    to_half(tiny_export(architecture), target, dtype)
    onnx.checker.check_model(str(target), full_check=True)
    assert findings(target, "mixed-types", "float32") == []
    kinds = {tensor.data_type for tensor in onnx.load(target).graph.initializer}
    assert NARROW[dtype] in kinds


def test_rotary_angles_stay_float32(tiny_export: Callable[..., Path], tmp_path: Path) -> None:
    to_half(tiny_export("modernbert"), tmp_path / "half.onnx", "fp16")
    graph = LintGraph.of(tmp_path / "half.onnx")
    angles = [graph.types[node.input[0]] for node in graph.nodes if node.op_type in {"Cos", "Sin"}]
    assert angles
    assert set(angles) == {TensorProto.FLOAT}


def test_mean_squares_stay_float32(tiny_export: Callable[..., Path], tmp_path: Path) -> None:
    to_half(tiny_export("qwen3"), tmp_path / "half.onnx", "fp16")
    graph = LintGraph.of(tmp_path / "half.onnx")
    squares = [graph.types[node.input[0]] for node in graph.nodes if node.op_type in {"Pow", "ReduceMean"}]
    assert squares
    assert set(squares) == {TensorProto.FLOAT}


def save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], **constants: NDArray[Any]
) -> Path:
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


def floats(name: str, *shape: Any) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def test_pooling_many_large_tokens_does_not_overflow(tmp_path: Path) -> None:
    source = save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Gather", ["table", "ids"], ["tokens"], "embed"),
            helper.make_node("Equal", ["row", "owner"], ["same"], "same"),
            helper.make_node("Cast", ["same"], ["member"], "member", to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["member", "tokens"], ["sum"], "sum"),
            helper.make_node("ReduceSum", ["member", "axis"], ["count"], "count", keepdims=1),
            helper.make_node("Div", ["sum", "count"], ["mean"], "mean"),
        ],
        [helper.make_tensor_value_info(name, TensorProto.INT32, [4096]) for name in ("ids", "owner")],
        [floats("mean", 1, 8)],
        table=np.full((4, 8), 40.0, np.float32),
        row=np.zeros((1, 1), np.int32),
        axis=np.array([1]),
    )
    to_half(source, tmp_path / "half.onnx", "fp16")
    feed = {"ids": np.zeros(4096, np.int32), "owner": np.zeros(4096, np.int32)}
    assert run(tmp_path / "half.onnx", feed) == pytest.approx(40.0)  # the sum is 163,840


def test_masks_are_clamped_and_told(tmp_path: Path) -> None:
    lowest = np.finfo(np.float32).min
    source = save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Where", ["seen", "x", "lowest"], ["masked"], "mask"),
            helper.make_node("Softmax", ["masked"], ["weights"], "softmax"),
            helper.make_node("MatMul", ["weights", "w"], ["y"], "mix"),
        ],
        [helper.make_tensor_value_info("seen", TensorProto.BOOL, [1, 4]), floats("x", 1, 4)],
        [floats("y", 1, 4)],
        lowest=np.array(lowest, np.float32),
        w=np.eye(4, dtype=np.float32),
    )
    for dtype in ("fp16", "bf16"):
        report = to_half(source, tmp_path / f"{dtype}.onnx", dtype)
        assert [(one.name, one.count) for one in report.clamped()] == [("lowest", 1)]
    all_masked = {"seen": np.zeros((1, 4), bool), "x": np.ones((1, 4), np.float32)}
    assert run(tmp_path / "fp16.onnx", all_masked) == pytest.approx(0.25), "no NaN where all is masked"


def test_float_inputs_and_outputs_keep_their_type(tmp_path: Path) -> None:
    source = save(
        tmp_path / "model.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        [floats("x", "n", 4)],
        [floats("y", "n", 4)],
        w=np.eye(4, dtype=np.float32) / 3,
    )
    to_half(source, tmp_path / "half.onnx", "fp16")
    graph = onnx.load(tmp_path / "half.onnx").graph
    assert [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)] == [TensorProto.FLOAT] * 2
    assert [node.op_type for node in graph.node] == ["Cast", "MatMul", "Cast"]
    x = np.ones((2, 4), np.float32)
    assert run(tmp_path / "half.onnx", {"x": x}) == pytest.approx(np.float32(np.float16(1 / 3)))


def test_a_constant_that_both_worlds_read_is_there_twice(tmp_path: Path) -> None:
    source = save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Add", ["x", "c"], ["a"], "narrow_add"),
            helper.make_node("MatMul", ["a", "w"], ["b"], "product"),
            helper.make_node("ReduceSum", ["b", "axis"], ["sum"], "sum"),
            helper.make_node("Mul", ["sum", "c"], ["y"], "wide_mul"),
        ],
        [floats("x", 2, 4)],
        [floats("y", 2, 1)],
        c=np.array(0.1, np.float32),
        w=np.eye(4, dtype=np.float32),
        axis=np.array([1]),
    )
    report = to_half(source, tmp_path / "half.onnx", "fp16")
    assert report.wide == ("sum", "wide_mul")
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "half.onnx").graph.initializer}
    assert kinds["c"] == TensorProto.FLOAT
    assert kinds["c_float16"] == TensorProto.FLOAT16


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_scales_follow_and_integers_stay(minilm_qdq: Path, dtype: Any, tmp_path: Path) -> None:
    quantized = onnx.load(minilm_qdq)
    to_half(minilm_qdq, tmp_path / "half.onnx", dtype)
    assert findings(tmp_path / "half.onnx", "scale-type", "mixed-types", "zero-point") == []
    before = {one.name: one for one in quantized.graph.initializer if one.data_type == TensorProto.INT8}
    after = onnx.load(tmp_path / "half.onnx")
    same = {one.name: one for one in after.graph.initializer if one.data_type == TensorProto.INT8}
    assert len(before) == 37  # 36 linear layers and the zero point
    assert {name: one.raw_data for name, one in before.items()} == {
        name: one.raw_data for name, one in same.items()
    }
    scales = {node.input[1] for node in after.graph.node if node.op_type.endswith("Linear")}
    kinds = {one.data_type for one in after.graph.initializer if one.name in scales}
    assert kinds == {NARROW[dtype]}


def test_int8_in_fp16_gives_what_int8_in_fp32_gives(minilm_qdq: Path, tmp_path: Path) -> None:
    # Ranges wide enough not to clip: the made-up scale of a narrow one is chaos in either type.
    to_half(minilm_qdq, tmp_path / "half.onnx", "fp16")
    feed = run_of([32] * 16, 30_000)
    exact, half = run(minilm_qdq, feed), run(tmp_path / "half.onnx", feed)
    assert cosines(exact, half).mean() > 0.99


def test_what_fits_and_what_does_not() -> None:
    array = np.array([1e6, -1e6, 1e-9, 1e-5, 0.0, 1.0, np.inf], np.float32)
    narrow, altered = fit(array, ir.DataType.FLOAT16, "w")
    assert narrow[:3].tolist() == [65504, -65504, 0]
    assert {one.what: one.count for one in altered} == {"clamped": 3, "flushed": 1, "subnormal": 1}
    wide, altered = fit(array[:6], ir.DataType.BFLOAT16, "w")
    assert wide.dtype == ml_dtypes.bfloat16
    assert altered == []


@pytest.mark.parametrize(
    ("kind", "tiny", "least"),
    [(ir.DataType.FLOAT16, 1e-9, 2.0**-24), (ir.DataType.BFLOAT16, 1e-41, 2.0**-133)],
)
def test_no_scale_becomes_zero(kind: ir.DataType, tiny: float, least: float) -> None:
    narrow, altered = fit(np.array([tiny, 0.5], np.float32), kind, "s", scale=True)
    assert narrow.astype(np.float32).tolist() == [least, 0.5]
    assert [one.what for one in altered] == ["flushed"]


def test_what_is_narrow_already_is_refused(minilm_half: tuple[Path, HalfReport], tmp_path: Path) -> None:
    again, target = tmp_path / "again.onnx", tmp_path / "half.onnx"
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "relu")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), again)
    with pytest.raises(EngineError, match="no float32"):
        to_half(again, target, "fp16")
    assert not target.exists()


def test_control_flow_is_refused(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["b"], "same")], "b", [], [floats("b", 1)]
    )
    source = save(
        tmp_path / "model.onnx",
        [helper.make_node("If", ["c"], ["y"], "choice", then_branch=branch, else_branch=branch)],
        [helper.make_tensor_value_info("c", TensorProto.BOOL, []), floats("x", 1)],
        [floats("y", 1)],
    )
    with pytest.raises(EngineError, match="If, Loop or Scan"):
        to_half(source, tmp_path / "half.onnx", "fp16")
