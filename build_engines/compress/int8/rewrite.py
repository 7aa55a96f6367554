"""Writes the chosen plans into the graph as explicit Q/DQ, by TensorRT's rules of placement.

Each group gets one QuantizeLinear / DequantizeLinear pair on its input, each of its weights becomes an
8-bit initializer with a DequantizeLinear per output channel. Nothing else is touched: no pair on
outputs, biases, softmax, norms, residual adds or embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from build_engines.compress.int8.fold import norm_parameters, value_projection
from build_engines.compress.int8.graph import Graph, Linear
from build_engines.compress.int8.number import Number
from build_engines.compress.int8.search import Plan, stored_weight

FloatArray = NDArray[np.float32]


class Rewriter:
    """Builds the quantized model out of the float32 graph, which stays as it is.

    Args:
        graph: In float32.
        number: Format.
    """

    def __init__(self, graph: Graph, number: Number) -> None:
        """Copy the model."""
        self._graph = graph
        self._number = number
        self._model = onnx.ModelProto()
        self._model.CopyFrom(graph.model)
        self._nodes = {node.name: node for node in self._model.graph.node}
        self._before: dict[str, list[onnx.NodeProto]] = {}
        self._values: dict[str, onnx.TensorProto] = {}
        self._stored: dict[tuple[str, bytes], str] = {}
        self._divided: dict[str, tuple[FloatArray, FloatArray]] = {}  # value projections: centre and s
        self.migrations: dict[str, str] = {}

    def write(
        self,
        plans: Sequence[Plan],
        linears: Iterable[Linear],
        *,
        fold: bool = True,
    ) -> onnx.ModelProto:
        """The quantized model.

        Args:
            plans: Groups to quantize.
            linears: All linear layers of the graph.
            fold: Whether migration may go into producers.
        """
        by_result = {linear.result: linear for linear in linears}
        for plan in plans:
            how = "" if plan.smooth is None and plan.centre is None else "mul"
            if how and fold:
                how = self._folded(plan, by_result)
            self.migrations[plan.group.name] = how
        for plan in plans:
            self._quantize(plan)
        # Value projections that stay in float carry the division in the weight itself.
        quantized = {member.name for plan in plans for member in plan.group.members}
        for linear in by_result.values():
            if linear.name in self._divided and linear.name not in quantized:
                centre, divisor = self._divided[linear.name]
                weight = self._graph.array(linear.weight)
                self._replace(linear.weight, weight / (divisor if linear.axis == 1 else divisor[:, None]))
                if linear.bias is not None:
                    self._replace(linear.bias, (self._graph.array(linear.bias) - centre) / divisor)
        return self._finish()

    def _folded(self, plan: Plan, by_result: Mapping[str, Linear]) -> str:
        """Move centre and s into the producer of a group's input where that is exact; say how it went."""
        zeros, ones = np.zeros(plan.group.channels, np.float32), np.ones(plan.group.channels, np.float32)
        centre = zeros if plan.centre is None else plan.centre
        smooth = ones if plan.smooth is None else plan.smooth
        parameters = norm_parameters(self._graph, plan.group)
        if parameters is not None and (len(parameters) == 2 or plan.centre is None):
            for name, offset in zip(parameters, (zeros, centre), strict=False):  # weight, then bias
                self._replace(name, (self._graph.array(name) - offset) / smooth)
            return "norm"
        value = value_projection(self._graph, plan.group, by_result)
        movable = value is not None and (value.bias is not None or plan.centre is None)
        if value is not None and movable and value.name not in self._divided:
            self._divided[value.name] = centre, smooth
            return "value"
        return "mul"

    def _quantize(self, plan: Plan) -> None:
        """Q/DQ on the input of a group and on its weights."""
        name = plan.group.name
        source, nodes = plan.group.source, []
        if self.migrations[name] == "mul":
            if plan.centre is not None:
                nodes.append(
                    self._node("Sub", [source, self._value(f"{name}.centre", plan.centre)], f"{name}.shift")
                )
                source = nodes[-1].output[0]
            if plan.smooth is not None:
                inverse = self._value(f"{name}.migration", 1 / plan.smooth)
                nodes.append(self._node("Mul", [source, inverse], f"{name}.migrate"))
                source = nodes[-1].output[0]
        pair = self._pair(source, plan.scale, f"{name}.input")
        first = min(plan.group.members, key=lambda member: self._place(member.node))
        self._before.setdefault(first.node, []).extend([*nodes, *pair])
        for member in plan.group.members:
            node = self._nodes[member.node]
            weight = self._weight(plan, member)
            self._before.setdefault(member.node, []).append(weight)
            node.input[0], node.input[1] = pair[-1].output[0], weight.output[0]
            if member.bias is not None:
                bias = self._graph.array(member.bias)
                if member.name in plan.shifts:
                    bias = bias + plan.shifts[member.name]
                if member.name in self._divided:
                    centre, divisor = self._divided[member.name]
                    bias = (bias - centre) / divisor
                self._replace(member.bias, bias)

    def _weight(self, plan: Plan, member: Linear) -> onnx.NodeProto:
        """DequantizeLinear over the 8-bit weight of one layer."""
        weight, scales = stored_weight(self._graph, plan, member.name)
        values = self._number.stored(weight, scales)
        scale = plan.weight_scales[member.name]
        if member.name in self._divided:  # the 8-bit values are the same, their scale carries the division
            scale = scale / self._divided[member.name][1]
        key = (member.weight, values.tobytes()) if member.shared_weight else (member.name, b"")
        if key not in self._stored:
            tensor = helper.make_tensor(
                f"{member.name}.weight.{self._number.name}",
                self._number.onnx_type,
                list(values.shape),
                np.ascontiguousarray(values).tobytes(),
                raw=True,
            )
            self._values[tensor.name] = tensor
            self._stored[key] = tensor.name
        return self._node(
            "DequantizeLinear",
            [
                self._stored[key],
                self._value(f"{member.name}.weight_scale", scale),
                self._zero(f"{member.name}.weight_zero", len(scale)),
            ],
            f"{member.name}.weight_dequantize",
            axis=member.axis,
        )

    def _pair(self, tensor: str, scale: float, name: str) -> list[onnx.NodeProto]:
        """QuantizeLinear and DequantizeLinear with one scale for the whole tensor."""
        parameters = [
            self._value(f"{name}_scale", np.array(scale, np.float32)),
            self._zero(f"{name}_zero", None),
        ]
        quantize = self._node("QuantizeLinear", [tensor, *parameters], f"{name}_quantize")
        return [
            quantize,
            self._node("DequantizeLinear", [quantize.output[0], *parameters], f"{name}_dequantize"),
        ]

    def _node(self, kind: str, inputs: Sequence[str], name: str, axis: int | None = None) -> onnx.NodeProto:
        """A node whose one output bears its name."""
        node = helper.make_node(kind, list(inputs), [f"{name}_output"], name=name)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        return node

    def _value(self, name: str, values: FloatArray) -> str:
        """A new initializer."""
        self._values[name] = numpy_helper.from_array(np.asarray(values, np.float32), name)
        return name

    def _zero(self, name: str, length: int | None) -> str:
        """A zero point of zeros: its type says which format is meant."""
        dims = [] if length is None else [length]
        size = 1 if length is None else length
        self._values[name] = helper.make_tensor(name, self._number.onnx_type, dims, bytes(size), raw=True)
        return name

    def _replace(self, name: str, values: FloatArray) -> None:
        """Other values for an initializer that is there."""
        self._values[name] = numpy_helper.from_array(values.astype(np.float32), name)

    def _place(self, node: str) -> int:
        """Position of a node in the graph."""
        if not hasattr(self, "_places"):
            self._places = {n.name: i for i, n in enumerate(self._graph.model.graph.node)}
        return self._places[node]

    def _finish(self) -> onnx.ModelProto:
        """Put the new nodes before their readers and drop what nothing reads."""
        graph = self._model.graph
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            nodes += [*self._before.get(node.name, []), node]
        read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
        tensors = {tensor.name: tensor for tensor in graph.initializer} | self._values
        kept = [tensor for name, tensor in tensors.items() if name in read]
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(kept)
        return model
