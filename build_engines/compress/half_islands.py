"""Which nodes of a graph stay in float32 when the rest is narrowed to FP16 or BF16.

Three kinds of arithmetic do not bear 16 bits, all cheap beside the linear layers:

- *Index arithmetic in float*: whatever is computed from integers and constants alone, such as positions
  times rotary frequencies (512 * 0.3 is off by 0.06 in FP16) or the 0/1 matrix of mean pooling.
- *Sums over many values*: pooling, vector norms, mean squares. 4,096 tokens of 16 overflow FP16.
- *The last activation*: scores are given in float32, so softmax or sigmoid may as well compute there.

The first two spread to the plain arithmetic that follows (divide by the count, take the root, clip),
and end where the narrowed world goes on: at a linear layer, a gather, a softmax.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import onnx_ir as ir
from onnx.defs import OpSchema, SchemaError, get_schema

# Sums that overflow or lose small terms.
_SUMS = {
    "ReduceSum",
    "ReduceMean",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
    "LpNormalization",
    "DFT",
    "CumSum",
}
_SHAPES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Identity", "Flatten"}
# What follows a sum and still belongs to it.
_PLAIN = _SHAPES | {"Add", "Sub", "Mul", "Div", "Sqrt", "Reciprocal", "Clip", "Max", "Min", "Pow", "Abs"}
_LAST = {"Softmax", "Sigmoid", "LogSoftmax"}

_TYPE_NAMES = {ir.DataType.FLOAT16: "tensor(float16)", ir.DataType.BFLOAT16: "tensor(bfloat16)"}


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is float32."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def float_inputs(node: ir.Node) -> list[ir.Value]:
    """The float32 inputs of a node."""
    return [value for value in node.inputs if value is not None and is_float(value)]


def wide_nodes(graph: ir.Graph, dtype: ir.DataType) -> set[ir.Node]:
    """Nodes that compute in float32.

    Args:
        graph: With the types of all values known, constants as initializers.
        dtype: What the others are narrowed to; an operator without that type stays wide too.
    """
    index = _index_arithmetic(graph)
    wide = {node for node in graph if _touches_float(node) and not _takes(node, dtype)}
    wide |= index
    wide |= _spread(node for node in graph if node not in index and _is_sum(node, index))
    wide |= {node for node in graph if node.op_type in _LAST and _reaches_only_outputs(node)}
    return wide


def _touches_float(node: ir.Node) -> bool:
    """Whether a node reads or writes float32."""
    return bool(float_inputs(node)) or any(is_float(value) for value in node.outputs)


def _takes(node: ir.Node, dtype: ir.DataType) -> bool:
    """Whether the operator is defined for ``dtype`` wherever the node has float32."""
    name = _TYPE_NAMES[dtype]
    schema = _schema(node)
    if schema is None:
        return False
    allowed = {
        constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints
    }
    pairs = [*_with_formals(node.inputs, schema.inputs), *_with_formals(node.outputs, schema.outputs)]
    return all(name in allowed.get(formal.type_str, [name]) for value, formal in pairs if is_float(value))


def _schema(node: ir.Node) -> OpSchema | None:
    """The operator's definition in the model's opset; None for operators of other domains."""
    version = node.version or (node.graph.opset_imports.get(node.domain) if node.graph else None)
    try:
        return get_schema(node.op_type, version or 20, node.domain)
    except SchemaError:
        return None


def _with_formals(
    values: Iterable[ir.Value | None], formals: Iterable[OpSchema.FormalParameter]
) -> list[tuple[ir.Value | None, OpSchema.FormalParameter]]:
    """Pair actual with formal parameters; the last formal repeats if it is variadic."""
    declared = list(formals)
    return [(value, declared[min(i, len(declared) - 1)]) for i, value in enumerate(values)]


def _index_arithmetic(graph: ir.Graph) -> set[ir.Node]:
    """Nodes whose floats come from integers or booleans by Cast, or are constants beside such."""
    found: set[ir.Node] = set()
    for node in graph:  # in topological order
        if not any(is_float(value) for value in node.outputs):
            continue
        if node.op_type == "Cast":
            if not is_float(node.inputs[0]):
                found.add(node)
            continue
        made = [value for value in float_inputs(node) if not value.is_initializer()]
        if made and all(value.producer() in found for value in made):
            found.add(node)
    return found


def _is_sum(node: ir.Node, index: set[ir.Node]) -> bool:
    """Whether a node sums so much that 16 bits do not do."""
    if node.op_type in _SUMS:
        return bool(float_inputs(node))
    # The matrix of 0 and 1 that picks a sequence's tokens, times the token vectors.
    return node.op_type == "MatMul" and any(value.producer() in index for value in float_inputs(node))


def _spread(seeds: Iterable[ir.Node]) -> set[ir.Node]:
    """Follow sums to the arithmetic that belongs to them, and back to the squares that they add up."""
    found: set[ir.Node] = set()
    todo = deque(seeds)
    while todo:
        node = todo.popleft()
        if node in found:
            continue
        found.add(node)
        if node.op_type in _SUMS:
            todo.extend(p for value in node.inputs if value and (p := value.producer()) and _is_square(p))
        for value in node.outputs:
            todo.extend(user for user in value.consumers() if user.op_type in _PLAIN and not _is_affine(user))
    return found


def _is_square(node: ir.Node) -> bool:
    """Whether a node squares its input."""
    return node.op_type == "Pow" or (node.op_type == "Mul" and node.inputs[0] is node.inputs[1])


def _is_affine(node: ir.Node) -> bool:
    """Whether a node applies a learnt weight or bias: the norm before it is done then."""
    return any(
        value is not None and value.is_initializer() and value.shape is not None and len(value.shape) > 0
        and is_float(value)
        for value in node.inputs
    )  # fmt: skip


def _reaches_only_outputs(node: ir.Node) -> bool:
    """Whether nothing but changes of shape lies between a node and the graph's outputs."""
    todo = list(node.outputs)
    while todo:
        value = todo.pop()
        users = value.consumers()
        if not users and not value.is_graph_output():
            return False
        if any(user.op_type not in _SHAPES for user in users):
            return False
        todo.extend(output for user in users for output in user.outputs)
    return True
