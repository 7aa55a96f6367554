from __future__ import annotations

import pytest

from build_engines.check.lint import Attention
from build_engines.check.rtx import LayerTable, audit, parse_layers

# Lines as TensorRT for RTX 1.7.1 logs them, with fewer fields in each tensor.
GEMM = (
    "Name: node_v+node_k+node_q_myl1_3, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [1,-1,384], "
    "Strides: [-1,384,1], Datatype: Int8, Format: (Linear) Row major linear format }], Constants: [ "
    "{ Name: w, Dimensions: [1,384,1152], Datatype: Int8, Format: (Linear) Row major linear format }, "
    "{ Name: alpha, Dimensions: [1], Datatype: Float, Format: (Linear) Row major linear format }], "
    "Outputs: [ { Name: y, Dimensions: [1,-1,1152], Datatype: Half, Format: (Linear) linear }], "
    "TacticName: t, StreamId: 0, Metadata: [ONNX Layer: node_v][ONNX Layer: node_x_DQ][ONNX Layer: node_k]"
    "[ONNX Layer: node_q]"
)
MHA = (
    "Name: _gemm_mha_v2_myl1_6, LayerType: kgen, Inputs: [ { Name: a, Dimensions: [1,-1], Datatype: Half, "
    "Format: (Arbitrary) Format with stride order = [1,2,0] }], Constants: [], Outputs: [ { Name: b, "
    "Dimensions: [1], Datatype: Int8, Format: (Linear) Row major linear format }], TacticName: t, "
    "StreamId: 0, "
    "Metadata: [ONNX Layer: node_weighted][ONNX Layer: node_softmax][ONNX Layer: node_scores]"
)
HOST = (
    "Name: [ShapeHostToDeviceCopy 0], LayerType: ShapeHostToDevice, Inputs: [], Outputs: [ { Name: (Unnamed "
    "Layer* 119) [Shuffle]_output, Location: Device, Dimensions: [1], Datatype: Int32, Format: none }], "
    "ParameterType: ShapeH2D, StreamId: 0, Metadata: "
)
TABLE = "\n".join(["Layers:", HOST, GEMM, MHA, "", "I/O Tensors:", " Name: input_ids, IOMode: Input"])
ATTENTION = Attention("node_scores", "node_softmax", "node_weighted", ("node_q", "node_k", "node_v"), True)
LINEAR = ("node_q", "node_k", "node_v")


def test_a_table_is_read() -> None:
    table = parse_layers(TABLE)
    host, gemm, attention = table.layers
    assert table.known
    assert (host.kind, host.inputs, host.constants, host.outputs) == ("ShapeHostToDevice", (), (), ("Int32",))
    assert (gemm.inputs, gemm.constants, gemm.outputs) == (("Int8",), ("Int8", "Float"), ("Half",))
    assert gemm.nodes == {"node_v", "node_k", "node_q", "node_x_DQ"}
    assert gemm.is_int8_gemm
    assert attention.is_fused_attention
    assert not attention.is_int8_gemm


def test_what_was_asked_for_is_there() -> None:
    found = audit(parse_layers(TABLE), LINEAR, [ATTENTION])
    assert found.verdict == "pass"
    assert (found.int8, found.fused, found.merged) == (LINEAR, ("node_softmax",), ("node_softmax",))
    assert found.problems() == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Layers:",
        "Layers:\n\nI/O Tensors:",
        "some other message",
        TABLE.replace("LayerType: kgen", "Kind: kgen"),
        TABLE.replace("Metadata:", "Nodes:"),
        TABLE.replace("Datatype: Int8", "Type: Int8"),
        TABLE.replace("Outputs: [", "Results: ["),
        TABLE.replace(MHA, MHA[:60]),
    ],
)
def test_what_cannot_be_read_never_passes(text: str) -> None:
    table = parse_layers(text)
    assert not table.known
    found = audit(table, LINEAR, [ATTENTION])
    assert found.verdict in {"unknown", "fail"}
    assert found.problems()


def test_a_table_without_a_node_is_unknown() -> None:
    found = audit(parse_layers(TABLE), [*LINEAR, "node_gone"], [ATTENTION])
    assert (found.verdict, found.missing) == ("unknown", ("node_gone",))


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        (
            "{ Name: w, Dimensions: [1,384,1152], Datatype: Int8",
            "{ Name: w, Datatype: Half",
            "higher precision",
        ),
        ("LayerType: gemm", "LayerType: runtime_fusion", "higher precision"),
        ("_gemm_mha_v2", "__myl_SoftSum", "not one fused kernel"),
        ("[ONNX Layer: node_k]", "", "no layer of the table names node_k"),
    ],
)
def test_what_went_wrong_is_told(before: str, after: str, problem: str) -> None:
    assert before in TABLE
    found = audit(parse_layers(TABLE.replace(before, after)), LINEAR, [ATTENTION])
    assert found.verdict != "pass"
    assert any(problem in one for one in found.problems())


def test_projections_in_several_products_are_told() -> None:
    alone = GEMM.replace("[ONNX Layer: node_k]", "").replace("node_v+node_k+node_q", "node_v+node_q")
    other = GEMM.replace("[ONNX Layer: node_v]", "").replace("[ONNX Layer: node_q]", "")
    found = audit(parse_layers(TABLE.replace(GEMM, f"{alone}\n{other}")), LINEAR, [ATTENTION])
    assert (found.verdict, found.not_merged, found.int8) == ("fail", ("node_softmax",), LINEAR)


def test_nothing_asked_of_nothing_is_unknown() -> None:
    assert audit(LayerTable((), ()), [], []).verdict == "unknown"
