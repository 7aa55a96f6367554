"""An ONNX graph with the questions that the lint rules ask of it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper

from tritonforge.errors import EngineError

QUANTIZE = {"QuantizeLinear", "DequantizeLinear"}
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}

# They move numbers without changing them: Q/DQ before or after such an operator means the same.
MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Gather", "Identity", "Flatten", "Expand", "Slice"}
_BETWEEN_SCORES_AND_SOFTMAX = MOVES | {"Add", "Sub", "Mul", "Div", "Where", "Cast"}


class Weight(NamedTuple):
    """The constant operand of a linear layer.

    Attributes:
        name: The constant.
        dequantizer: Its DequantizeLinear, if there is one.
        turned: Whether a Transpose lies between it and the node.
    """

    name: str
    dequantizer: NodeProto | None
    turned: bool


@dataclass(frozen=True)
class Attention:
    """One attention, named by its nodes.

    Attributes:
        scores: The MatMul of queries and keys.
        softmax: The Softmax.
        weighted: The MatMul with the values.
        projections: The linear layers that make queries, keys and values, in this order, each once;
            empty where they cannot be told.
        share_input: Whether the projections read one and the same tensor.
    """

    scores: str
    softmax: str
    weighted: str
    projections: tuple[str, ...]
    share_input: bool


class LintGraph:
    """Indices over a model; nothing in it is changed.

    Args:
        model: The graph.
        folder: Where weights outside the file lie.
    """

    def __init__(self, model: ModelProto, folder: Path | None = None) -> None:
        """Index nodes, constants and types."""
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self._folder = folder
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producers: dict[str, NodeProto] = {}
        self._consumers: dict[str, list[NodeProto]] = defaultdict(list)
        self._labels: dict[int, str] = {}
        for number, node in enumerate(self.nodes):
            self._labels[id(node)] = node.name or f"{node.op_type}#{number}"
            for name in filter(None, node.output):
                self.producers[name] = node
            for name in dict.fromkeys(filter(None, node.input)):
                self._consumers[name].append(node)
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.opset: dict[str, int] = {one.domain: one.version for one in model.opset_import}
        self.outputs = {value.name for value in model.graph.output}
        self.inputs = [value for value in model.graph.input if value.name not in self.constants]

    @classmethod
    def of(cls, model: ModelProto | Path) -> LintGraph:
        """Index a model; from a file its outside weights are read only where a rule asks for them.

        Raises:
            EngineError: If the file is no ONNX model.
        """
        if isinstance(model, ModelProto):
            return cls(model)
        try:
            return cls(onnx.load(str(model), load_external_data=False), model.parent)
        except Exception as error:  # OSError, or protobuf's DecodeError, which has no stable public name
            raise EngineError(f"cannot be read as ONNX: {error}", where=str(model)) from error

    def label(self, node: NodeProto) -> str:
        """Its name; operator and position where it has none."""
        return self._labels[id(node)]

    def consumers(self, name: str) -> list[NodeProto]:
        """The nodes that read a value."""
        return self._consumers.get(name, [])

    def array(self, name: str) -> NDArray[np.generic] | None:
        """Numbers of a constant; None if it is none, or its file is missing."""
        tensor = self.constants.get(name)
        if tensor is None:
            return None
        try:
            found: NDArray[np.generic] = numpy_helper.to_array(tensor, str(self._folder or ""))
        except (OSError, ValueError, onnx.checker.ValidationError):
            return None
        return found

    @cached_property
    def types(self) -> dict[str, int]:
        """Element type of each value, as far as it can be known; ``TensorProto`` codes."""
        types = {name: tensor.data_type for name, tensor in self.constants.items()}
        bare = ModelProto()
        bare.CopyFrom(self.model)
        for tensor in bare.graph.initializer:  # weights beside the file are not needed for types
            if tensor.data_location == TensorProto.EXTERNAL:
                del tensor.external_data[:]
                tensor.data_location = TensorProto.DEFAULT
                bare.graph.input.append(
                    onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
        kept = [tensor for tensor in bare.graph.initializer if _has_data(tensor)]
        del bare.graph.initializer[:]
        bare.graph.initializer.extend(kept)
        del bare.graph.value_info[:]  # what the graph says is what counts, not what someone noted
        try:
            graph = onnx.shape_inference.infer_shapes(bare).graph
        except Exception:  # onnx raises InferenceError or RuntimeError; rules then judge by constants alone
            graph = self.model.graph
        for value in (*graph.value_info, *graph.input, *graph.output):
            if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type:
                types.setdefault(value.name, value.type.tensor_type.elem_type)
        return types

    def is_float(self, name: str) -> bool:
        """Whether a value is of a float type."""
        return self.types.get(name) in FLOATS

    # -- quantizers ---------------------------------------------------------------------------------

    @cached_property
    def quantizers(self) -> list[NodeProto]:
        """Every QuantizeLinear and DequantizeLinear."""
        return [node for node in self.nodes if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]

    def dequantizer(self, name: str) -> NodeProto | None:
        """The DequantizeLinear that a value comes from, moved at most."""
        node = self.producers.get(name)
        while node is not None and node.op_type in MOVES:
            node = self.producers.get(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def quantized_later(self, name: str) -> bool:
        """Whether every reader of a value quantizes it, or moves it and then quantizes it."""
        readers = self.consumers(name)
        if not readers or name in self.outputs:
            return False
        return all(
            reader.op_type == "QuantizeLinear"
            or (reader.op_type in MOVES and self.quantized_later(reader.output[0]))
            for reader in readers
        )

    def before_quantizer(self, name: str) -> str:
        """The float value behind Q/DQ; the value itself where it is not dequantized."""
        node = self.producers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return name
        quantizer = self.producers.get(node.input[0])
        return quantizer.input[0] if quantizer is not None and quantizer.op_type == "QuantizeLinear" else name

    # -- linear layers ------------------------------------------------------------------------------

    def weight(self, node: NodeProto) -> Weight | None:
        """The constant operand of a MatMul, Gemm or Conv; None if the node has none."""
        if node.op_type not in {"MatMul", "Gemm", "Conv", "ConvTranspose"} or len(node.input) < 2:
            return None
        name, dequantizer, turned = node.input[1], None, False
        while name not in self.constants:
            producer = self.producers.get(name)
            if producer is None:
                return None
            if producer.op_type == "DequantizeLinear" and dequantizer is None:
                dequantizer = producer
            elif producer.op_type == "Transpose":
                turned = not turned
            elif producer.op_type not in {"QuantizeLinear", "Identity", "Cast"}:
                return None
            name = producer.input[0]
        return Weight(name, dequantizer, turned)

    @cached_property
    def linear_layers(self) -> list[NodeProto]:
        """Every MatMul and Gemm with a constant second operand."""
        return [node for node in self.nodes if node.op_type in {"MatMul", "Gemm"} and self.weight(node)]

    @cached_property
    def _linear_ids(self) -> set[int]:
        return {id(node) for node in self.linear_layers}

    def is_linear(self, node: NodeProto) -> bool:
        """Whether a node is one of :attr:`linear_layers`."""
        return id(node) in self._linear_ids

    # -- attention ----------------------------------------------------------------------------------

    @cached_property
    def attentions(self) -> list[Attention]:
        """Every MatMul, Softmax, MatMul chain in which neither product has a constant operand."""
        found = []
        for softmax in self.nodes:
            if softmax.op_type != "Softmax":
                continue
            scores = self._scores_of(softmax)
            weighted = self._weighted_by(softmax)
            if scores is None or weighted is None:
                continue
            operands = [*scores.input[:2], weighted.input[1]]
            made = [self._projections(name) for name in operands]
            projections = [nodes[0] for nodes in made if len(nodes) == 1]
            named = tuple(dict.fromkeys(self.label(node) for node in projections))
            sources = {self.before_quantizer(node.input[0]) for node in projections}
            found.append(
                Attention(
                    self.label(scores),
                    self.label(softmax),
                    self.label(weighted),
                    named if len(projections) == 3 else (),
                    len(projections) == 3 and len(sources) == 1,
                )
            )
        return found

    def node(self, label: str) -> NodeProto:
        """The node of a label."""
        return self._by_label[label]

    @cached_property
    def _by_label(self) -> dict[str, NodeProto]:
        return {self.label(node): node for node in self.nodes}

    def _scores_of(self, softmax: NodeProto) -> NodeProto | None:
        """The product of queries and keys that a softmax normalizes."""
        for node in self._backward([softmax.input[0]], _BETWEEN_SCORES_AND_SOFTMAX | QUANTIZE):
            if node.op_type == "MatMul" and not self.weight(node):
                return node
        return None

    def _weighted_by(self, softmax: NodeProto) -> NodeProto | None:
        """The product of a softmax's weights and the values."""
        todo = deque([softmax.output[0]])
        while todo:
            name = todo.popleft()
            for node in self.consumers(name):
                if node.op_type == "MatMul" and node.input[0] == name:
                    return node
                if node.op_type in MOVES | QUANTIZE | {"Cast", "Where", "Mul"}:
                    todo.append(node.output[0])
        return None

    def _projections(self, name: str) -> list[NodeProto]:
        """The nearest linear layers that a query, key or value comes from."""
        return [node for node in self._backward([name], None) if self.is_linear(node)]

    def _backward(self, names: Iterable[str], through: set[str] | None) -> Iterator[NodeProto]:
        """Producers of values, breadth first, past nodes of certain types; linear layers end a path."""
        todo, seen = deque(names), set()
        while todo:
            node = self.producers.get(todo.popleft())
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            yield node
            if self.is_linear(node) or (through is not None and node.op_type not in through):
                continue
            todo.extend(name for name in node.input if self.is_float(name) or node.op_type in QUANTIZE)


def quantized_linear_layers(graph: LintGraph) -> list[str]:
    """Labels of the linear layers with Q/DQ on both operands."""
    return [
        graph.label(node)
        for node in graph.linear_layers
        if graph.dequantizer(node.input[0]) is not None
        and (weight := graph.weight(node))
        and weight.dequantizer is not None
    ]


def attribute(node: NodeProto, name: str) -> AttributeProto | None:
    """An attribute of a node, if it is given."""
    return next((one for one in node.attribute if one.name == name), None)


def integer(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    found = attribute(node, name)
    return default if found is None else found.i


def type_name(code: int | None) -> str:
    """A type in words."""
    return "unknown" if not code else TensorProto.DataType.Name(code)


def _has_data(tensor: TensorProto) -> bool:
    """Whether an initializer still holds its numbers."""
    fields = (
        "raw_data",
        "float_data",
        "int32_data",
        "int64_data",
        "double_data",
        "uint64_data",
        "string_data",
    )
    return any(len(getattr(tensor, field)) for field in fields) or 0 in tensor.dims
