"""Narrows a float32 graph to FP16 or BF16, plain or with Q/DQ, for strongly typed TensorRT.

TensorRT 11 takes every type from the graph: both operands of an operator must have one float type, and
the scales of Q/DQ the type of the activations around them. So the conversion decides a type for each
node and puts a Cast on each edge where types meet.

Of the libraries, ``onnxconverter_common.float16`` knows no BF16, clips masks to 1e4 unless told
otherwise, keeps operators in float32 by name lists only and does not say what it clipped; modelopt's
autocast does more but brings its own pins of onnx and ONNX Runtime. The rules of
:mod:`build_engines.compress.half_islands` are few enough to have here, and act on ``onnx_ir``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import (
    InlinePass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
    ShapeInferencePass,
)

from build_engines.compress.half_islands import float_inputs, is_float, wide_nodes
from tritonforge.errors import EngineError

HalfType = Literal["fp16", "bf16"]

_DTYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


class _Range(NamedTuple):
    """Positive numbers that bound a type: the largest, the least with all digits, the least of all."""

    largest: float
    normal: float
    least: float


_RANGES = {
    ir.DataType.FLOAT16: _Range(65504.0, 2.0**-14, 2.0**-24),
    ir.DataType.BFLOAT16: _Range((2 - 2.0**-7) * 2.0**127, 2.0**-126, 2.0**-133),
}

# They read only the shape, or convert whatever comes.
_ANY_TYPE = {"Shape", "Size", "Cast"}
# Attributes that name the type of an operator's output.
_TYPE_ATTRIBUTES = {"to", "dtype", "output_dtype", "precision"}
# A quantizer's scale: none may become 0.
_SCALED = {"QuantizeLinear", "DequantizeLinear"}

_SINGLE_FILE_LIMIT = 2**31 - 2**20  # protobuf's, with room for the graph itself


@dataclass(frozen=True)
class Altered:
    """A constant that the narrow type cannot hold as it was.

    Attributes:
        name: Of the initializer.
        what: ``clamped`` (too large, now the type's largest), ``flushed`` (now 0) or ``subnormal`` (kept
            with fewer digits).
        count: How many of its numbers.
        size: Of how many.
    """

    name: str
    what: Literal["clamped", "flushed", "subnormal"]
    count: int
    size: int


@dataclass(frozen=True)
class HalfReport:
    """What a conversion did.

    Attributes:
        dtype: ``fp16`` or ``bf16``.
        narrowed: Nodes that now compute in it.
        wide: Names of the nodes that still compute in float32.
        casts: Casts put in.
        altered: Constants that did not fit; a few flushed or subnormal numbers in a weight matrix are
            usual, clamped ones mean that FP16 is not for this model (mask constants apart).
    """

    dtype: HalfType
    narrowed: int
    wide: tuple[str, ...]
    casts: int
    altered: tuple[Altered, ...]

    def clamped(self) -> tuple[Altered, ...]:
        """The constants that were too large."""
        return tuple(one for one in self.altered if one.what == "clamped")


def to_half(source: Path, target: Path, dtype: HalfType) -> HalfReport:
    """Narrow a graph's floats; integers stay, float32 inputs and outputs keep their type.

    Q/DQ nodes get scales of the narrow type. Sums, index arithmetic and the last activation stay in
    float32.

    Args:
        source: ONNX with float32 as its one float type, opset 19 or later if it has Q/DQ.
        target: Where to write.
        dtype: ``fp16`` or ``bf16``.

    Raises:
        EngineError: If the graph holds control flow, or is not float32.
    """
    model = _prepared(source)
    report = narrow(model, dtype)
    _save(model, target)
    return report


def _prepared(source: Path) -> ir.Model:
    """Load flat, with constants as initializers and all types known."""
    model = ir.load(source)
    InlinePass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    ShapeInferencePass(check_type=True, strict_mode=True)(model)
    unknown = [
        value.name for node in model.graph for value in node.outputs if value.dtype is None and value.name
    ]
    if unknown:
        raise EngineError(
            f"the type of {len(unknown)} values cannot be inferred, first {unknown[0]!r}",
            where=str(source),
            mend="run onnx.shape_inference.infer_shapes(strict_mode=True) on it: it names the node",
        )
    if list(model.graph.subgraphs()):
        raise EngineError("graphs with If, Loop or Scan are not narrowed", where=str(source))
    return model


def narrow(model: ir.Model, dtype: HalfType) -> HalfReport:
    """Narrow a loaded model in place.

    Args:
        model: Inlined, with constants as initializers and every value's type known.
        dtype: ``fp16`` or ``bf16``.

    Raises:
        EngineError: If there is no float32 to narrow.
    """
    graph, half = model.graph, _DTYPES[dtype]
    floats = [node for node in graph if any(map(is_float, (*node.inputs, *node.outputs)))]
    if not floats:
        raise EngineError(f"no float32 to convert to {dtype}", mend="convert the float32 export")
    wide = wide_nodes(graph, half)
    kept = {value for value in graph.outputs if is_float(value)}
    edges = _Edges(graph, half)
    for node in floats:
        if node not in wide:
            _retype_attributes(node, half)
    wanted = {  # which of a node's inputs must be of which type, before any value is retyped
        node: float_inputs(node) for node in floats if node.op_type not in _ANY_TYPE
    }
    for node in floats:
        if node not in wide:
            for value in node.outputs:
                if is_float(value):
                    value.dtype = half
    for node, values in wanted.items():
        edges.require(node, set(values), ir.DataType.FLOAT if node in wide else half)
    for value in kept:
        edges.restore_output(value)
    RemoveUnusedNodesPass()(model)
    graph.sort()
    return HalfReport(
        dtype,
        sum(node not in wide and node.op_type not in _ANY_TYPE for node in floats),
        tuple(node.name or node.op_type for node in floats if node in wide and node.op_type != "Cast"),
        edges.casts,
        tuple(edges.altered),
    )


def _retype_attributes(node: ir.Node, half: ir.DataType) -> None:
    """Make attributes that say float32 say the narrow type."""
    for name, attribute in list(node.attributes.items()):
        if name in _TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT:
            if attribute.as_int() == ir.DataType.FLOAT:
                node.attributes[name] = ir.AttrInt64(name, half.value)
        elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == ir.DataType.FLOAT:
            values = attribute.as_tensor().numpy().astype(half.numpy())
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(values))


class _Edges:
    """Casts and narrowed constants, each made once."""

    def __init__(self, graph: ir.Graph, half: ir.DataType) -> None:
        self.graph = graph
        self.half = half
        self.casts = 0
        self.altered: list[Altered] = []
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def require(self, node: ir.Node, values: set[ir.Value], dtype: ir.DataType) -> None:
        """Give a node its float inputs in one type."""
        for position, value in enumerate(node.inputs):
            if value in values and value is not None:
                node.replace_input_with(position, self._typed(value, dtype, scale=_is_scale(node, position)))

    def restore_output(self, value: ir.Value) -> None:
        """Give a graph output its float32 and its name back, if its producer was narrowed."""
        if value.dtype != self.half:
            return
        name = value.name
        value.name = f"{name}_{self.half.name.lower()}"
        cast = self._cast(value, ir.DataType.FLOAT, name or "output")
        self.graph.outputs[:] = [cast if output is value else output for output in self.graph.outputs]

    def _typed(self, value: ir.Value, dtype: ir.DataType, *, scale: bool) -> ir.Value:
        """The value in ``dtype``: itself, a converted constant, or behind a Cast."""
        if value.is_initializer():
            return self._constant(value, dtype, scale=scale)
        if value.dtype == dtype:
            return value
        key = (value, dtype)
        if key not in self._made:
            self._made[key] = self._cast(value, dtype, f"{value.name}_{dtype.name.lower()}")
        return self._made[key]

    def _cast(self, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
        """Cast right behind the producer."""
        made = ir.node("Cast", [value], {"to": dtype.value}, name=f"{name}_cast")
        made.outputs[0].name = name
        made.outputs[0].dtype = dtype
        made.outputs[0].shape = value.shape
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], made)
        else:
            self.graph.insert_after(producer, made)
        self.casts += 1
        return made.outputs[0]

    def _constant(self, value: ir.Value, dtype: ir.DataType, *, scale: bool) -> ir.Value:
        """The constant in ``dtype``; in float32 too its numbers are kept within the narrow type's range."""
        key = (value, dtype)
        if key in self._made:
            return self._made[key]
        assert value.const_value is not None  # initializers have one
        array = value.const_value.numpy()
        fitted, altered = fit(array, self.half, value.name or "", scale=scale)
        if dtype == ir.DataType.FLOAT:
            altered = [one for one in altered if one.what == "clamped"]
            if not altered:
                return value
            largest = _RANGES[self.half].largest
            fitted = np.clip(array, -largest, largest)
        self.altered.extend(one for one in altered if one not in self.altered)
        made = ir.Value(
            name=f"{value.name}_{dtype.name.lower()}",
            type=ir.TensorType(dtype),
            shape=value.shape,
            const_value=ir.tensor(fitted, dtype=dtype, name=f"{value.name}_{dtype.name.lower()}"),
        )
        self.graph.register_initializer(made)
        self._made[key] = made
        return made


def _is_scale(node: ir.Node, position: int) -> bool:
    """Whether an input is the scale of a quantizer."""
    return node.op_type in _SCALED and position == 1


def fit(
    array: NDArray[np.float32], half: ir.DataType, name: str, *, scale: bool = False
) -> tuple[NDArray[np.generic], list[Altered]]:
    """Round to the narrow type without making an infinity, and say what did not fit.

    Args:
        array: float32.
        half: FLOAT16 or BFLOAT16.
        name: For the findings.
        scale: Whether these are quantizers' scales: none becomes 0, division by it would follow.
    """
    bounds = _RANGES[half]
    size = np.abs(array)
    narrow_array = np.clip(array, -bounds.largest, bounds.largest).astype(half.numpy())
    flushed = (narrow_array == 0) & (array != 0)
    if scale:
        narrow_array = np.where(flushed, np.asarray(bounds.least, half.numpy()), narrow_array)
    counts: dict[Literal["clamped", "flushed", "subnormal"], int] = {
        "clamped": int((size > bounds.largest).sum()),
        "flushed": int(flushed.sum()),
        "subnormal": int(((size < bounds.normal) & (array != 0) & ~flushed).sum()),
    }
    return narrow_array, [Altered(name, what, count, array.size) for what, count in counts.items() if count]


def _save(model: ir.Model, target: Path) -> None:
    """Write one file, or weights beside it where protobuf's limit asks for it; then check it."""
    constants = [value.const_value for value in model.graph.initializers.values()]
    size = sum(int(tensor.nbytes) for tensor in constants if tensor is not None)
    external = f"{target.name}.data" if size > _SINGLE_FILE_LIMIT else None
    ir.save(model, target, external_data=external)
    onnx.checker.check_model(str(target), full_check=True)
