"""Finds the linear layers of an ONNX graph by pattern, whatever architecture they came from.

A linear layer is a ``MatMul`` or ``Gemm`` whose second operand is a constant matrix. Its readable name
comes from the weight, from the module path that torch's exporter leaves in the node's metadata, or
from its bias.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tritonforge.errors import CalibrationError

FloatArray = NDArray[np.float32]

# Below this a matrix product is a vector product in disguise, for which no INT8 kernel is faster.
_SMALLEST_SIDE = 8

_FOLDED = ".transposed"

_ROLES: tuple[tuple[str, str], ...] = (
    (r"(pooler|classifier|classification_head|score|predictions|head|lm_head|decoder)(\.|$)", "head"),
    (r"(qkv|wqkv|qkv_proj|in_proj)$", "qkv"),
    (r"(query|query_proj|q_proj|q_lin|attn\.q|q)$", "query"),
    (r"(key|key_proj|k_proj|k_lin|attn\.k|k)$", "key"),
    (r"(value|value_proj|v_proj|v_lin|attn\.v|v)$", "value"),
    (
        r"(attention\.output\.dense|attention\.dense|attn\.wo|out_lin|o_proj|out_proj|attn\.o)$",
        "attention_output",
    ),
    (r"(intermediate\.dense|lin1|up_proj|gate_proj|mlp\.wi|fc1|ffn)$", "ffn_in"),
    (r"(output\.dense|lin2|down_proj|mlp\.wo|fc2|ffn_output)$", "ffn_out"),
)  # fmt: skip


@dataclass(frozen=True)
class Linear:
    """One linear layer of the graph.

    Attributes:
        name: Readable name, unique in the graph.
        role: query, key, value, qkv, attention_output, ffn_in, ffn_out, head or other.
        node: Name of the ``MatMul`` or ``Gemm`` node.
        source: The activation tensor it reads.
        weight: Name of the weight's initializer.
        axis: Axis of the output channels in the weight as it is stored.
        inputs: Input channels K.
        outputs: Output channels N.
        bias: Initializer of its bias, if that is used by this layer alone.
        biased: Whether it has a bias at all.
        result: Tensor that holds its output, bias included.
        shared_weight: Whether other nodes read the same weight (as in ALBERT).
    """

    name: str
    role: str
    node: str
    source: str
    weight: str
    axis: int
    inputs: int
    outputs: int
    bias: str | None
    biased: bool
    result: str
    shared_weight: bool


class Graph:
    """An ONNX model with indices over its nodes and constants.

    Args:
        model: Loaded with its weights.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Lift constants to initializers, name all nodes, and index."""
        self.model = model
        graph = model.graph
        _lift_constants(graph)
        _fold_transposes(graph)
        taken = {node.name for node in graph.node}
        for number, node in enumerate(graph.node):
            if not node.name:
                node.name = f"{node.op_type}_{number}"
                while node.name in taken:
                    node.name += "_"
                taken.add(node.name)
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {out: node for node in graph.node for out in node.output if out}
        consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                consumers[name].append(node)
        self.consumers = consumers
        self.outputs = {value.name for value in graph.output}

    @classmethod
    def load(cls, path: Path) -> Graph:
        """Read a model with its external weights, if it has any.

        Raises:
            CalibrationError: If the file is no ONNX model.
        """
        try:
            return cls(onnx.load(path))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise CalibrationError(f"cannot be read as ONNX: {error}", where=str(path)) from error
        except Exception as error:  # protobuf's DecodeError has no public name in common to its versions
            if type(error).__name__ != "DecodeError":
                raise
            raise CalibrationError("is not an ONNX file", where=str(path)) from error

    def array(self, name: str) -> FloatArray:
        """Values of a float initializer, float32."""
        return numpy_helper.to_array(self.initializers[name]).astype(np.float32)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is an initializer."""
        return name in self.initializers

    def only_consumer(self, tensor: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor; None if there are several, or it is an output."""
        readers = self.consumers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """All linear layers, in the order of the graph."""
        found: list[Linear] = []
        names: dict[str, int] = {}
        readers: dict[str, int] = defaultdict(int)
        for node in self.model.graph.node:
            stored = self._weight(node)
            if stored is not None:
                readers[stored[0]] += 1
        for node in self.model.graph.node:
            stored = self._weight(node)
            if stored is None:
                continue
            weight, axis = stored
            shape = tuple(self.initializers[weight].dims)
            bias, result = self._bias(node)
            name = self._name(node, weight, bias)
            names[name] = names.get(name, 0) + 1
            if names[name] > 1:  # a layer that is run several times, as in ALBERT
                name = f"{name}@{names[name]}"
            found.append(
                Linear(
                    name=name,
                    role=role_of(name.partition("@")[0]),
                    node=node.name,
                    source=node.input[0],
                    weight=weight,
                    axis=axis,
                    inputs=shape[1 - axis],
                    outputs=shape[axis],
                    bias=bias if bias and len(self.consumers[bias]) == 1 else None,
                    biased=bias is not None,
                    result=result,
                    shared_weight=readers[weight] > 1 or len(self.consumers[weight]) > 1,
                )
            )
        return tuple(found)

    def _weight(self, node: onnx.NodeProto) -> tuple[str, int] | None:
        """The constant matrix of a linear layer and the axis of its output channels."""
        if node.op_type not in {"MatMul", "Gemm"} or len(node.input) < 2 or self.is_constant(node.input[0]):
            return None
        axis, name = 1, node.input[1]
        if node.op_type == "Gemm":
            given = {attribute.name: attribute for attribute in node.attribute}
            if ("transA" in given and given["transA"].i) or ("alpha" in given and given["alpha"].f != 1):
                return None
            axis = 0 if "transB" in given and given["transB"].i else 1
        if name not in self.initializers:
            return None
        tensor = self.initializers[name]
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 2:
            return None
        return (name, axis) if min(tensor.dims) >= _SMALLEST_SIDE else None

    def _bias(self, node: onnx.NodeProto) -> tuple[str | None, str]:
        """The bias's initializer, and the tensor with the bias added."""
        if node.op_type == "Gemm":
            bias = node.input[2] if len(node.input) > 2 and self.is_constant(node.input[2]) else None
            return bias, node.output[0]
        after = self.only_consumer(node.output[0])
        if after is not None and after.op_type == "Add":
            for name in after.input:
                if self.is_constant(name) and len(self.initializers[name].dims) == 1:
                    return name, after.output[0]
        return None, node.output[0]

    def _name(self, node: onnx.NodeProto, weight: str, bias: str | None) -> str:
        """A readable name."""
        plain = weight.removesuffix(_FOLDED)
        if plain.endswith(".weight"):
            return _strip(plain.removesuffix(".weight"))
        for entry in node.metadata_props:
            if entry.key == "pkg.torch.onnx.name_scopes":
                scopes = re.findall(r"'([^']*)'", entry.value)
                if len(scopes) > 1 and "." in scopes[-2]:
                    return _strip(scopes[-2])
        if bias and bias.endswith(".bias"):
            return _strip(bias.removesuffix(".bias"))
        return node.name


def role_of(name: str) -> str:
    """What a layer does, by its name; ``other`` if the name does not tell."""
    lowered = name.lower()
    for pattern, role in _ROLES:
        if re.search(r"(^|\.)" + pattern, lowered):
            return role
    return "other"


@dataclass(frozen=True)
class Group:
    """Linear layers that read one tensor, and so share one scale: query, key and value, for instance.

    Attributes:
        name: Of its layers; ``...self.query+key+value``.
        source: The tensor they read.
        members: The layers.
    """

    name: str
    source: str
    members: tuple[Linear, ...]

    @property
    def channels(self) -> int:
        """Channels of the source, K."""
        return self.members[0].inputs

    @property
    def shared_weight(self) -> bool:
        """Whether any weight serves other layers too: then nothing may be folded into it."""
        return any(member.shared_weight for member in self.members)


def group_by_source(linears: Sequence[Linear]) -> list[Group]:
    """Put layers of the same source together, in the order of the graph."""
    by_source: dict[str, list[Linear]] = defaultdict(list)
    for linear in linears:
        by_source[linear.source].append(linear)
    return [
        Group(_join([member.name for member in members]), source, tuple(members))
        for source, members in by_source.items()
    ]


def _join(names: Sequence[str]) -> str:
    """``a.b.query``, ``a.b.key`` become ``a.b.query+key``."""
    if len(names) == 1:
        return names[0]
    parts = [name.split(".") for name in names]
    common = 0
    while all(len(part) > common + 1 and part[common] == parts[0][common] for part in parts):
        common += 1
    return ".".join([*parts[0][:common], "+".join(".".join(part[common:]) for part in parts)])


def _strip(name: str) -> str:
    """Drop the exporter's wrapper from the front: the model's own names start after it."""
    return re.sub(r"^(encoder|model|head)\.(?=.*\.|pooler)", "", name, count=1)


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Turn ``Constant`` nodes with a tensor into initializers."""
    kept = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None and node.domain in {"", "ai.onnx"}:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            kept.append(node)
    if len(kept) != len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _fold_transposes(graph: onnx.GraphProto) -> None:
    """Give linear layers their weight as a constant where a ``Transpose`` or ``Identity`` stands between."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    between = {
        node.output[0]: node
        for node in graph.node
        if node.op_type in {"Transpose", "Identity"} and node.input
    }
    made: set[str] = set()
    for node in graph.node:
        if node.op_type not in {"MatMul", "Gemm"} or len(node.input) < 2:
            continue
        name, flips = node.input[1], 0
        while name not in initializers and name in between:
            flips += between[name].op_type == "Transpose"
            name = between[name].input[0]
        if name == node.input[1] or name not in initializers or len(initializers[name].dims) != 2:
            continue
        if flips % 2:
            folded = f"{name}{_FOLDED}"
            if folded not in made:
                values = np.ascontiguousarray(numpy_helper.to_array(initializers[name]).T)
                graph.initializer.append(numpy_helper.from_array(values, folded))
                made.add(folded)
            name = folded
        node.input[1] = name
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [node for node in graph.node if node.op_type != "Transpose" or node.output[0] in used]
    if len(kept) != len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)
