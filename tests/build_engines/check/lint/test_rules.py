"""Each rule against a graph that breaks it and nothing else, and against the parser where it says refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from build_engines.check.lint import RULES, lint, require_clean
from build_engines.check.rtx import compile_ahead
from tritonforge.errors import EngineError

HALF = TensorProto.FLOAT16


@dataclass
class Draft:
    """A graph under construction, float16 unless told."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add(self, operator: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, array: Any, dtype: Any = np.float16) -> str:
        self.constants[name] = np.asarray(array, dtype)
        return name

    def qdq(self, source: str, tag: str, scale: float = 0.05, zero: Any = 0, kind: Any = np.int8) -> str:
        """Q and DQ of one scale; the zero point is left out if it is None."""
        quantizer = [self.constant(f"{tag}_scale", scale)]
        if zero is not None:
            quantizer.append(self.constant(f"{tag}_zero", zero, kind))
        self.add("QuantizeLinear", [source, *quantizer], f"{tag}_q")
        return self.add("DequantizeLinear", [f"{tag}_q", *quantizer], f"{tag}_dq")

    def weight(self, tag: str, shape: tuple[int, ...] = (64, 64), axis: int = 1, scale: Any = None) -> str:
        """An INT8 weight behind its DQ."""
        integers = np.random.default_rng(0).integers(-127, 128, shape)
        self.constant(f"{tag}_q", integers, np.int8)
        self.constant(f"{tag}_scale", np.full(shape[axis], 0.01) if scale is None else scale)
        return self.add("DequantizeLinear", [f"{tag}_q", f"{tag}_scale"], tag, axis=axis)

    def linear(self, source: str, tag: str, quantized: bool = True) -> str:
        """MatMul and bias."""
        if quantized:
            product = self.add("MatMul", [self.qdq(source, f"{tag}_x"), self.weight(f"{tag}_w")], f"{tag}_mm")
        else:
            plain = self.constant(f"{tag}_w", np.eye(64))
            product = self.add("MatMul", [source, plain], f"{tag}_mm")
        return self.add("Add", [product, self.constant(f"{tag}_bias", np.ones(64))], tag)

    def model(self, output: str, kind: int = HALF, inputs: dict[str, int] | None = None) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [
                helper.make_tensor_value_info(name, of, ["rows", 64])
                for name, of in (inputs or {"x": HALF}).items()
            ],
            [helper.make_tensor_value_info(output, kind, None)],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


PROFILE = {"x": ((1, 64), (8, 64), (32, 64))}


def attention(draft: Draft, quantized: Iterable[str] = ()) -> str:
    """One head of 64 on [1, rows, 64]; any of queries, keys, softmax, values, output may be quantized."""
    points = set(quantized)

    def point(name: str, value: str) -> str:
        return draft.qdq(value, name, 1 / 127) if name in points else value

    axis = draft.constant("axis", [0], np.int64)
    queries, keys, values = (
        draft.add("Unsqueeze", [draft.linear("x", tag, quantized=False), axis], f"{tag}_3d") for tag in "qkv"
    )
    keys = draft.add("Transpose", [keys], "keys_t", perm=[0, 2, 1])
    scores = draft.add("MatMul", [point("queries", queries), point("keys", keys)], "scores")
    if "scores" in points:
        scores = draft.qdq(scores, "scores_out")
    weights = draft.add("Softmax", [scores], "weights", axis=-1)
    mixed = draft.add("MatMul", [point("softmax", weights), point("values", values)], "mixed")
    flat = draft.add("Squeeze", [point("output", mixed), axis], "flat")
    if "output" in points:
        return draft.add("MatMul", [flat, draft.weight("o_w")], "o")
    return flat


def rules_of(model: onnx.ModelProto, **told: Any) -> list[str]:
    return [finding.rule for finding in lint(model, **told)]


def refused(model: onnx.ModelProto, folder: Path) -> bool:
    """Whether the parser of TensorRT for RTX refuses a graph."""
    onnx.save(model, folder / "model.onnx")
    return bool(compile_ahead(folder / "model.onnx", [PROFILE], ["SM89"]).parser_errors)


def good() -> onnx.ModelProto:
    draft = Draft()
    return draft.model(draft.linear("x", "fc"))


def test_a_good_graph_has_no_findings(tmp_path: Path) -> None:
    told = {
        "profiles": [PROFILE],
        "triton_inputs": {"x": "TYPE_FP16"},
        "max_batch_size": 32,
        "profile_indices": ["0"],
    }
    assert lint(good(), **told) == ()
    assert not refused(good(), tmp_path)


# -- what the parser refuses ------------------------------------------------------------------------


def non_zero_zero_point() -> onnx.ModelProto:
    draft = Draft()
    product = draft.add("MatMul", [draft.qdq("x", "x", zero=3), draft.weight("w")], "y")
    return draft.model(product)


def int32_bias() -> onnx.ModelProto:
    draft = Draft()
    product = draft.add("MatMul", [draft.qdq("x", "x"), draft.weight("w")], "mm")
    bias = [draft.constant("b_q", np.arange(64), np.int32), draft.constant("b_scale", 0.01)]
    return draft.model(draft.add("Add", [product, draft.add("DequantizeLinear", bias, "b")], "y"))


def dynamic_int8() -> onnx.ModelProto:
    draft = Draft()
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["x_q", "x_scale", "x_zero"], name="dynamic")
    draft.nodes.append(node)
    draft.constant("w_q", np.ones((64, 64)), np.int8)
    draft.add("MatMulInteger", ["x_q", "w_q", "x_zero"], "y")
    return draft.model("y", TensorProto.INT32, {"x": TensorProto.FLOAT})


def qoperator() -> onnx.ModelProto:
    draft = Draft()
    one, zero = draft.constant("s", 0.05, np.float32), draft.constant("z", 0, np.int8)
    draft.constant("w_q", np.ones((64, 64)), np.int8)
    x = draft.add("QuantizeLinear", ["x", one, zero], "x_q")
    product = draft.add("QLinearMatMul", [x, one, zero, "w_q", one, zero, one, zero], "y_q")
    return draft.model(
        draft.add("DequantizeLinear", [product, one, zero], "y"), TensorProto.FLOAT, {"x": TensorProto.FLOAT}
    )


def fused_by_onnxruntime() -> onnx.ModelProto:
    draft = Draft()
    model = draft.model(
        draft.add("BiasGelu", ["x", draft.constant("b", np.ones(64))], "y", domain="com.microsoft")
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def float32_scales() -> onnx.ModelProto:
    draft = Draft()
    zero = draft.constant("zero", 0, np.int8)
    scale = draft.constant("x_scale", 0.05, np.float32)
    quantized = draft.add("QuantizeLinear", ["x", scale, zero], "x_q")
    same = draft.add("DequantizeLinear", [quantized, scale, zero], "x_dq")
    product = draft.add("MatMul", [same, draft.constant("w", np.eye(64))], "y")
    return draft.model(product)


def two_float_types() -> onnx.ModelProto:
    draft = Draft()
    return draft.model(draft.add("Add", ["x", draft.constant("c", np.ones(64), np.float32)], "y"))


@pytest.mark.parametrize(
    ("rule", "model"),
    [
        ("zero-point", non_zero_zero_point),
        ("bias-int32", int32_bias),
        ("integer-operator", dynamic_int8),
        ("integer-operator", qoperator),
        ("contrib-domain", fused_by_onnxruntime),
        ("scale-type", float32_scales),
        ("mixed-types", two_float_types),
    ],
)
def test_what_the_lint_calls_refused_the_parser_refuses(
    rule: str, model: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    found = [finding for finding in lint(model()) if finding.severity == "error"]
    assert {finding.rule for finding in found} == {rule}, "one cause, one rule"
    with pytest.raises(EngineError, match=found[0].rule):
        require_clean(found, "model.onnx")
    assert refused(model(), tmp_path)


# -- what builds, and should not be ------------------------------------------------------------------


def test_uint8_is_found() -> None:
    draft = Draft()
    product = draft.add("MatMul", [draft.qdq("x", "x", kind=np.uint8), draft.weight("w")], "y")
    (one, other) = lint(draft.model(product))
    assert (one.rule, one.node, other.node) == ("zero-point", "x_q", "x_dq")
    assert "UINT8" in one.what


def test_an_absent_zero_point_means_uint8_to_onnx() -> None:
    draft = Draft()
    product = draft.add("MatMul", [draft.qdq("x", "x", zero=None), draft.weight("w")], "y")
    assert set(rules_of(draft.model(product))) == {"zero-point"}


@pytest.mark.parametrize("scale", [0.0, -0.1, np.inf, np.nan])
def test_a_scale_is_positive_and_finite(scale: float) -> None:
    draft = Draft()
    product = draft.add("MatMul", [draft.qdq("x", "x", scale), draft.weight("w")], "y")
    assert set(rules_of(draft.model(product))) == {"scale-value"}


def test_weight_scales_along_the_sum() -> None:
    draft = Draft()
    product = draft.add("MatMul", [draft.qdq("x", "x"), draft.weight("w", axis=0)], "y")
    assert rules_of(draft.model(product)) == ["weight-axis"]


@pytest.mark.parametrize(
    ("turned", "axis", "fine"), [(0, 1, True), (1, 0, True), (0, 0, False), (1, 1, False)]
)
def test_gemm_keeps_its_channels_where_transb_says(turned: int, axis: int, fine: bool) -> None:
    draft = Draft()
    product = draft.add("Gemm", [draft.qdq("x", "x"), draft.weight("w", axis=axis)], "y", transB=turned)
    assert rules_of(draft.model(product)) == ([] if fine else ["weight-axis"])


@pytest.mark.parametrize(("axis", "fine"), [(0, True), (1, False)])
def test_a_transpose_turns_the_axis(axis: int, fine: bool) -> None:
    draft = Draft()
    turned = draft.add("Transpose", [draft.weight("w", axis=axis)], "w_t", perm=[1, 0])
    product = draft.add("MatMul", [draft.qdq("x", "x"), turned], "y")
    assert rules_of(draft.model(product)) == ([] if fine else ["weight-axis"])


def test_one_scale_for_a_weight() -> None:
    draft = Draft()
    product = draft.add("MatMul", [draft.qdq("x", "x"), draft.weight("w", scale=0.01)], "y")
    assert rules_of(draft.model(product)) == ["weight-per-tensor"]


@pytest.mark.parametrize("side", ["activation", "weight"])
def test_one_quantized_operand(side: str) -> None:
    draft = Draft()
    operands = (
        ["x", draft.weight("w")]
        if side == "weight"
        else [draft.qdq("x", "x"), draft.constant("w", np.eye(64))]
    )
    (found,) = lint(draft.model(draft.add("MatMul", operands, "y")))
    assert (found.rule, found.node) == ("one-sided", "y")
    assert side in found.what


@pytest.mark.parametrize("scale", [0.05, 0.06])
def test_scales_of_a_shared_input(scale: float) -> None:
    draft = Draft()
    one = draft.add("MatMul", [draft.qdq("x", "a", 0.05), draft.weight("a_w")], "one")
    two = draft.add("MatMul", [draft.qdq("x", "b", scale), draft.weight("b_w")], "two")
    expected = [] if scale == 0.05 else ["shared-input-scales"]
    assert rules_of(draft.model(draft.add("Add", [one, two], "y"))) == expected


def test_quantizers_between_product_and_bias() -> None:
    draft = Draft()
    product = draft.add("MatMul", [draft.qdq("x", "x"), draft.weight("w")], "mm")
    y = draft.add("Add", [draft.qdq(product, "out"), draft.constant("b", np.ones(64))], "y")
    (found,) = lint(draft.model(y))
    assert (found.rule, found.node) == ("matmul-output", "out_q")


def test_quantized_attention_scores() -> None:
    draft = Draft()
    found = lint(draft.model(attention(draft, ["scores"])))
    assert [one.rule for one in found] == ["matmul-output"]
    assert "scores" in found[0].what


ALL = ("queries", "keys", "softmax", "values", "output")


@pytest.mark.parametrize("points", [(), ("output",), ALL], ids=["none", "output", "all"])
def test_whole_attention_is_fine(points: tuple[str, ...]) -> None:
    draft = Draft()
    assert rules_of(draft.model(attention(draft, points))) == []


@pytest.mark.parametrize("left", ALL)
def test_attention_quantized_in_part(left: str) -> None:
    draft = Draft()
    (found,) = lint(draft.model(attention(draft, set(ALL) - {left})))
    assert (found.rule, found.node) == ("partial-attention", "weights")
    assert f"but not {left}" in found.what


def test_a_float32_rest() -> None:
    draft = Draft()
    draft.constant("w", np.eye(64), np.float32)
    model = draft.model(draft.add("MatMul", ["x", "w"], "y"), TensorProto.FLOAT, {"x": TensorProto.FLOAT})
    (found,) = lint(model)
    assert (found.rule, found.severity, found.node) == ("float32", "warning", "y")


def test_names() -> None:
    model = good()
    model.graph.node[-1].name = ""
    assert rules_of(model) == ["unnamed"]
    model.graph.node[-1].name = model.graph.node[0].name
    assert rules_of(model) == ["unnamed"]


def test_float64() -> None:
    draft = Draft()
    wide = draft.add("Cast", ["x"], "wide", to=TensorProto.DOUBLE)
    model = draft.model(draft.add("Cast", [wide], "y", to=HALF))
    assert set(rules_of(model)) == {"double"}


# -- profiles and Triton -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"x": "TYPE_INT32"}, "takes FLOAT16"),
        ({}, "not told"),
        ({"x": "TYPE_FP16", "z": "TYPE_FP16"}, "does not have"),
    ],
)
def test_types_of_triton(inputs: dict[str, str], words: str) -> None:
    (found,) = lint(good(), triton_inputs=inputs)
    assert found.rule == "triton-type"
    assert words in found.what


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({}, "no shapes for x"),
        ({"x": ((1, 64), (8, 64), (4, 64))}, "do not rise"),
        ({"x": ((1, 32), (8, 64), (32, 64))}, "is 64 in the graph"),
        ({"x": ((1,), (8,), (32,))}, "2 dimensions"),
        ({**PROFILE, "z": ((1,), (1,), (1,))}, "which is no input"),
    ],
)
def test_profiles_cover_every_input(profile: Any, words: str) -> None:
    (found,) = lint(good(), profiles=[PROFILE, profile])
    assert (found.rule, found.node) == ("profile-coverage", "profile 1")
    assert words in found.what


def test_one_dimension_has_one_size() -> None:
    draft = Draft()
    model = draft.model(draft.add("Add", ["a", "b"], "y"), inputs={"a": HALF, "b": HALF})
    same, other = PROFILE["x"], ((1, 64), (8, 64), (64, 64))
    assert rules_of(model, profiles=[{"a": same, "b": same}]) == []
    (found,) = lint(model, profiles=[{"a": same, "b": other}])
    assert found.rule == "profile-dimensions"
    assert "rows" in found.what


@pytest.mark.parametrize(("size", "fine"), [(32, True), (33, False)])
def test_the_largest_batch(size: int, fine: bool) -> None:
    expected = [] if fine else ["profile-max-batch"]
    assert rules_of(good(), profiles=[PROFILE], max_batch_size=size) == expected


@pytest.mark.parametrize(("sequences", "fine"), [(65, True), (64, False)])
def test_the_largest_batch_of_a_packed_graph(sequences: int, fine: bool, minilm_onnx: Path) -> None:
    profile = {
        "input_ids": ((1,), (64,), (4096,)),
        "cu_seqlens": ((2,), (9,), (sequences,)),
        "max_seqlen": ((1,), (32,), (512,)),
    }
    found = [one.rule for one in lint(minilm_onnx, profiles=[profile], max_batch_size=64)]
    assert ("profile-max-batch" in found) != fine


@pytest.mark.parametrize(
    ("indices", "count"), [(["0"], 0), (["1"], 1), (["-1"], 1), (["x"], 1), (["0", "0"], 1)]
)
def test_indices_of_profiles(indices: list[str], count: int) -> None:
    found = rules_of(good(), profiles=[PROFILE], profile_indices=indices)
    assert found == ["profile-index"] * count


# -- real graphs ---------------------------------------------------------------------------------------


def test_every_rule_has_a_test() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in RULES if f'"{name}"' not in text] == []


def test_weights_beside_the_file_are_not_read(minilm_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(minilm_onnx)
    onnx.save(
        model, tmp_path / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0
    )
    (tmp_path / "model.data").unlink()
    assert rules_of(tmp_path / "model.onnx") == rules_of(model) == ["float32"]


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(EngineError, match="cannot be read as ONNX"):
        lint(tmp_path / "model.onnx")
