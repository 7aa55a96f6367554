"""Memory and work of an ONNX graph at given shapes: every tensor sized, then who is alive when.

The exporter leaves a symbolic shape on each value (``s72``, ``s45*(s40 - 1)``). The symbols are bound by
the graph's inputs; what carries no shape is left to ONNX's own shape inference with the inputs made
concrete.
"""

from __future__ import annotations

import ast
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from build_engines.estimate.workload import Run

Shape = tuple[int, ...]
# Outputs of these share their input's memory.
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
# Between the two attention products; a fused attention kernel holds none of it in memory.
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Cast", "Clip", "Max", "Min"})
_QUANTIZE = frozenset({"QuantizeLinear", "DequantizeLinear"})
_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True)
class GraphCost:
    """What a graph needs for one run.

    Attributes:
        peak_bytes: Most that is alive at once, inputs and outputs included, weights not.
        traffic_bytes: All that is written by nodes: each tensor once.
        linear_flops: Of matrix products with constant weights.
        attention_flops: Of matrix products of two computed tensors.
        kernels: Nodes that compute something, after the obvious fusions.
        unsized: Tensors whose shape is unknown; they count as 0 bytes.
    """

    peak_bytes: int
    traffic_bytes: int
    linear_flops: int
    attention_flops: int
    kernels: int
    unsized: int


class Graph:
    """An ONNX graph, loaded once and costed at several shapes.

    Args:
        path: The file; weights beside it are not read.
    """

    def __init__(self, path: Path) -> None:
        """Read nodes and shapes."""
        self._model = onnx.load(path, load_external_data=False)
        graph = self._model.graph
        self._weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self._constant = set(self._weights)
        for node in graph.node:
            # What only unpacks a constant (Q/DQ of a weight, its transpose) is constant too.
            if node.op_type == "Constant" or (
                node.op_type in {*_QUANTIZE, "Transpose", "Cast"}
                and all(name in self._constant for name in node.input)
            ):
                self._constant.update(node.output)

    def cost(self, run: Run, *, float_bytes: int | None = None, fused_attention: bool = False) -> GraphCost:
        """Cost the graph for one run.

        Args:
            run: Shapes.
            float_bytes: Bytes of a floating-point element; as the graph says if None.
            fused_attention: Scores and softmax stay inside one kernel, as in TensorRT.
        """
        shapes = self._shapes(run)
        types = self._types()
        in_kernel = self._attention_inner() if fused_attention else frozenset()

        def size(name: str) -> int:
            if name in self._constant or name in in_kernel or name not in shapes:
                return 0
            kind = types.get(name, onnx.TensorProto.FLOAT)
            width = float_bytes if float_bytes and kind in _FLOATS else _width(kind)
            return math.prod(shapes[name]) * width

        nodes = self._model.graph.node
        linear = attention = 0
        for node in nodes:
            flops = self._product_flops(node, shapes)
            if node.op_type in {"MatMul", "Gemm"} and node.input[1] not in self._constant:
                attention += flops
            else:
                linear += flops
        produced = [name for node in nodes if node.op_type not in _VIEWS for name in node.output if name]
        return GraphCost(
            peak_bytes=self._peak(size),
            traffic_bytes=sum(map(size, produced)),
            linear_flops=linear,
            attention_flops=attention,
            kernels=sum(
                node.op_type in {"MatMul", "Gemm", "MatMulInteger", "LayerNormalization"} for node in nodes
            ),
            unsized=sum(name not in shapes and name not in self._constant for name in produced),
        )

    def _peak(self, size: Callable[[str], int]) -> int:
        """Walk the nodes in order; a buffer lives until the last node that reads it or a view of it."""
        graph = self._model.graph
        owner: dict[str, str] = {}
        for node in graph.node:
            if node.op_type in _VIEWS and node.input[0] not in self._constant:
                owner[node.output[0]] = owner.get(node.input[0], node.input[0])
        last: dict[str, int] = {}
        for position, node in enumerate(graph.node):
            for name in (*node.input, *node.output):
                last[owner.get(name, name)] = position
        for output in graph.output:
            last[owner.get(output.name, output.name)] = len(graph.node)
        ending: dict[int, list[str]] = defaultdict(list)
        for name, position in last.items():
            ending[position].append(name)
        alive = {value.name for value in graph.input if value.name not in self._constant}
        now = peak = sum(map(size, alive))
        for position, node in enumerate(graph.node):
            for name in node.output:
                if name and owner.get(name, name) == name:
                    alive.add(name)
                    now += size(name)
            peak = max(peak, now)
            for name in ending[position]:
                if name in alive:
                    alive.remove(name)
                    now -= size(name)
        return peak

    def _product_flops(self, node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
        """2 M N K of a matrix product; 0 for other nodes."""
        if node.op_type not in {"MatMul", "Gemm", "MatMulInteger"} or node.output[0] not in shapes:
            return 0
        left = shapes.get(node.input[0])
        inner = left[-1] if left else 0
        return 2 * math.prod(shapes[node.output[0]]) * inner

    def _attention_inner(self) -> frozenset[str]:
        """Tensors from the first attention product to the softmax's result."""
        maker = {name: node for node in self._model.graph.node for name in node.output}
        found: set[str] = set()
        for node in self._model.graph.node:
            if node.op_type != "Softmax":
                continue
            found.update(node.output)
            name = node.input[0]
            while name in maker:
                found.add(name)
                before = maker[name]
                computed = [each for each in before.input if each in maker and each not in self._constant]
                if before.op_type not in _ELEMENTWISE or not computed:
                    break
                name = computed[0]
        return frozenset(found)

    def _types(self) -> dict[str, int]:
        """Element type of each tensor."""
        return {value.name: value.type.tensor_type.elem_type for value in _values(self._model.graph)}

    def _shapes(self, run: Run) -> dict[str, Shape]:
        """Shape of each tensor at the run's sizes."""
        bound = self._bind(run)
        shapes = dict(self._weights)
        for value in _values(self._model.graph):
            dims = [_dim(dim, bound) for dim in value.type.tensor_type.shape.dim]
            if value.type.tensor_type.HasField("shape") and None not in dims:
                shapes[value.name] = tuple(dim for dim in dims if dim is not None)
        self._fill(shapes)
        if any(name and name not in shapes for node in self._model.graph.node for name in node.output):
            for name, shape in self._inferred(run).items():
                shapes.setdefault(name, shape)
        return shapes

    def _fill(self, shapes: dict[str, Shape]) -> None:
        """The simple cases that an exporter leaves out: casts, and reshapes to one axis."""
        for node in self._model.graph.node:
            if not node.output or node.output[0] in shapes or node.input[0] not in shapes:
                continue
            if node.op_type == "Cast":
                shapes[node.output[0]] = shapes[node.input[0]]
            elif node.op_type == "Reshape" and self._weights.get(node.input[1]) == (1,):
                shapes[node.output[0]] = (math.prod(shapes[node.input[0]]),)

    def _bind(self, run: Run) -> dict[str, int]:
        """Values of the symbols in the inputs' shapes."""
        bound: dict[str, int] = {}
        for value in self._model.graph.input:
            for dim, actual in zip(
                value.type.tensor_type.shape.dim, input_shape(value.name, run), strict=False
            ):
                if dim.dim_param:
                    bound[dim.dim_param] = actual
        return bound

    def _inferred(self, run: Run) -> dict[str, Shape]:
        """What ONNX's shape inference finds with concrete inputs; for graphs that came without shapes."""
        concrete = onnx.ModelProto()
        concrete.CopyFrom(self._model)
        del concrete.graph.value_info[:]
        for value in concrete.graph.input:
            for dim, actual in zip(
                value.type.tensor_type.shape.dim, input_shape(value.name, run), strict=False
            ):
                dim.dim_value = actual
        inferred = onnx.shape_inference.infer_shapes(concrete, data_prop=True)
        found = {}
        for value in _values(inferred.graph):
            tensor = value.type.tensor_type
            if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
                found[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
        return found


def input_shape(name: str, run: Run) -> Shape:
    """Shape of one of the graph's inputs, packed or padded."""
    if name == "cu_seqlens":
        return (run.sequences + 1,)
    if name == "max_seqlen":
        return (run.longest,)
    return (run.sequences, run.longest) if run.padded else (run.tokens,)


def evaluate(expression: str, bound: Mapping[str, int]) -> int | None:
    """A dimension such as ``s45*(s40 - 1)``; None if a symbol or an operation is unknown."""
    try:
        return _evaluate(ast.parse(expression, mode="eval").body, bound)
    except (SyntaxError, KeyError, ZeroDivisionError):
        return None


def _evaluate(node: ast.expr, bound: Mapping[str, int]) -> int:
    """Whole numbers, names, and five operators; nothing else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return bound[node.id]
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, bound), _evaluate(node.right, bound)
        return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"Max", "Min"}:
        values = [_evaluate(argument, bound) for argument in node.args]
        return max(values) if node.func.id == "Max" else min(values)
    raise KeyError(ast.dump(node))


def _dim(dim: Any, bound: Mapping[str, int]) -> int | None:
    """One dimension as a number."""
    return int(dim.dim_value) if dim.HasField("dim_value") else evaluate(dim.dim_param, bound)


def _width(kind: int) -> int:
    """Bytes of an element."""
    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize) if kind else 4


def _values(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto]:
    """Everything that carries a shape."""
    return (*graph.input, *graph.output, *graph.value_info)
