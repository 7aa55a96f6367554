"""Where a migration vector goes: into the tensor's producer where that is exact, else into a Mul.

Dividing a layer's input by s is free if what makes that input can make it divided:

- a norm that feeds only this group: its weight and bias are divided;
- attention's output: attention mixes the rows of V channel by channel, so the value projection's
  output channels are divided (multi-head attention; several heads that share one V are left alone).

A norm that a residual branch reads as well must stay as it is, and nothing passes through GELU: there
a ``Mul`` by 1/s stands before the quantizer, which compilers fuse into the quantizing kernel.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from build_engines.compress.int8.graph import Graph, Group, Linear

_MOVES = {"Reshape", "Transpose", "Gather", "Unsqueeze", "Squeeze", "Identity", "GatherND", "Expand"}


def value_projection(graph: Graph, group: Group, linears: Mapping[str, Linear]) -> Linear | None:
    """The value projection behind an attention output projection's input, if s can be folded into it.

    Args:
        graph: The model.
        group: One layer that reads attention's result.
        linears: All linear layers by the tensor that holds their output, bias included.
    """
    product = _walk_back(graph, group.source)
    if product is None or product.op_type != "MatMul":
        return None
    weights = graph.producers.get(product.input[0])
    if weights is None or weights.op_type != "Softmax":
        return None
    value = _origin(graph, product.input[1], linears)
    if value is None or value.outputs != group.channels or value.shared_weight:
        return None
    if value.biased and value.bias is None:
        return None  # its bias serves others too, and would have to be divided
    return value


def norm_parameters(graph: Graph, group: Group) -> tuple[str, ...] | None:
    """Initializers to divide where a norm feeds this group and nothing else."""
    readers = {node.name for node in graph.consumers[group.source]}
    if readers != {member.node for member in group.members} or group.source in graph.outputs:
        return None
    producer = graph.producers.get(group.source)
    if producer is None:
        return None
    if producer.op_type == "LayerNormalization":
        parameters = tuple(producer.input[1:3])
    elif producer.op_type == "Mul":  # the weight of an RMS norm
        parameters = tuple(name for name in producer.input if graph.is_constant(name))[:1]
    else:
        return None
    fits = all(
        graph.is_constant(name)
        and list(graph.initializers[name].dims) == [group.channels]
        and len(graph.consumers[name]) == 1
        for name in parameters
    )
    return parameters if parameters and fits else None


def _walk_back(graph: Graph, tensor: str) -> onnx.NodeProto | None:
    """The node behind a chain of moves that nothing else reads."""
    node = graph.producers.get(tensor)
    while node is not None and node.op_type in _MOVES:
        tensor = node.input[0]
        if graph.only_consumer(tensor) is None:
            return None
        node = graph.producers.get(tensor)
    return node


def _origin(graph: Graph, tensor: str, linears: Mapping[str, Linear]) -> Linear | None:
    """The linear layer behind a chain of moves that nothing else reads."""
    while tensor not in linears:
        node = graph.producers.get(tensor)
        if node is None or node.op_type not in _MOVES or graph.only_consumer(tensor) is None:
            return None
        tensor = node.input[0]
    return linears[tensor] if graph.only_consumer(tensor) is not None else None
