"""A float32 graph in which every group of linear layers can be quantized or not, run by run.

One session answers for every choice of layers: scales, migration vectors, weights and biases are
inputs with defaults. Quantized values are computed in float32, as a GPU's INT8 kernels with float32
accumulators would give them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from build_engines.compress.int8.graph import Graph, Group, Linear
from build_engines.compress.int8.number import Number
from build_engines.compress.int8.search import Plan, stored_weight
from build_engines.compress.int8.session import Batches, FloatArray, GraphSession, Sequences


class Switchboard:
    """Answers of the model with any set of plans applied; a context manager.

    Args:
        graph: In float32.
        groups: The groups that may be switched.
        number: Format.
        batches: Layout and budget.
        threads: Of ONNX Runtime; 0: all cores.
    """

    def __init__(
        self, graph: Graph, groups: Sequence[Group], number: Number, batches: Batches, threads: int
    ) -> None:
        """Build the graph and open the session."""
        self._graph = graph
        self._number = number
        self._weights: dict[str, str] = {}
        self._feeds: dict[int, dict[str, NDArray[Any]]] = {}
        self._session = GraphSession(self._build(groups), batches, threads)

    def __enter__(self) -> Switchboard:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop the session."""
        self._session.__exit__(kind, value, trace)

    def answer(self, sequences: Sequences, plans: Iterable[Plan]) -> FloatArray:
        """Output for all sequences with the plans applied, float32 [sequences, width]."""
        feeds: dict[str, NDArray[Any]] = {}
        for plan in plans:
            feeds |= self._feed(plan)
        return self._session.answer(sequences, feeds)

    def _feed(self, plan: Plan) -> dict[str, NDArray[Any]]:
        """Inputs that switch one plan on; kept, since it is asked for again and again."""
        if id(plan) in self._feeds:
            return self._feeds[id(plan)]
        prefix = plan.group.name
        feed: dict[str, NDArray[Any]] = {
            f"{prefix}.on": np.array(True),
            f"{prefix}.scale": np.array(plan.scale, np.float32),
        }
        if plan.centre is not None:
            feed[f"{prefix}.centre"] = plan.centre
        if plan.smooth is not None:
            feed[f"{prefix}.inverse"] = (1 / plan.smooth).astype(np.float32)
        for member in plan.group.members:
            weight, scales = stored_weight(self._graph, plan, member.name)
            feed[self._weights[member.name]] = np.ascontiguousarray(self._number.fake(weight, scales))
            if member.bias is not None and member.name in plan.shifts:
                feed[member.bias] = self._graph.array(member.bias) + plan.shifts[member.name]
        self._feeds[id(plan)] = feed
        self._kept = [*getattr(self, "_kept", []), plan]  # an id is unique only while its object lives
        return feed

    def _build(self, groups: Sequence[Group]) -> onnx.ModelProto:
        """The graph with its switches."""
        model = onnx.ModelProto()
        model.CopyFrom(self._graph.model)
        graph = model.graph
        before: dict[str, list[onnx.NodeProto]] = {}
        renamed: dict[str, str] = {}
        defaults: list[onnx.TensorProto] = []
        for group in groups:
            nodes, switched, values = self._switch(group)
            before[group.members[0].node] = nodes
            renamed |= {member.node: switched for member in group.members}
            defaults += values
        overridden: list[str] = []
        for group in groups:
            for member in group.members:
                self._weights[member.name] = self._override(graph, member)
                overridden += [self._weights[member.name], *([member.bias] if member.bias else [])]
        nodes = []
        for node in graph.node:
            nodes += before.get(node.name, [])
            if node.name in renamed:
                node.input[0] = renamed[node.name]
            nodes.append(node)
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.extend(defaults)
        shapes = {tensor.name: tensor for tensor in graph.initializer}
        for name in [*overridden, *(tensor.name for tensor in defaults)]:
            tensor = shapes[name]
            graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        return model

    def _switch(self, group: Group) -> tuple[list[onnx.NodeProto], str, list[onnx.TensorProto]]:
        """Nodes, their result, and the defaults of their inputs."""
        prefix = group.name
        zero = f"{prefix}.zero"
        nodes = [
            helper.make_node("Sub", [group.source, f"{prefix}.centre"], [f"{prefix}.centred"]),
            helper.make_node("Mul", [f"{prefix}.centred", f"{prefix}.inverse"], [f"{prefix}.moved"]),
            helper.make_node(
                "QuantizeLinear", [f"{prefix}.moved", f"{prefix}.scale", zero], [f"{prefix}.small"]
            ),
            helper.make_node(
                "DequantizeLinear", [f"{prefix}.small", f"{prefix}.scale", zero], [f"{prefix}.again"]
            ),
            helper.make_node(
                "Where", [f"{prefix}.on", f"{prefix}.again", group.source], [f"{prefix}.switched"]
            ),
        ]
        for node in nodes:
            node.name = f"{node.output[0]}.node"
        values = [
            numpy_helper.from_array(np.zeros(group.channels, np.float32), f"{prefix}.centre"),
            numpy_helper.from_array(np.ones(group.channels, np.float32), f"{prefix}.inverse"),
            numpy_helper.from_array(np.array(1, np.float32), f"{prefix}.scale"),
            numpy_helper.from_array(np.array(False), f"{prefix}.on"),
            helper.make_tensor(zero, self._number.onnx_type, [], [0]),
        ]
        return nodes, f"{prefix}.switched", values

    def _override(self, graph: onnx.GraphProto, member: Linear) -> str:
        """Name of the input that carries a layer's weight; a copy of its own where the weight is shared."""
        if not member.shared_weight:
            return member.weight
        name = f"{member.name}.weight.own"
        copy = TensorProto()
        copy.CopyFrom(self._graph.initializers[member.weight])
        copy.name = name
        graph.initializer.append(copy)
        node = next(node for node in graph.node if node.name == member.node)
        node.input[1] = name
        return name
