"""Reads the layer table that the compiler logs.

It is log text, not an interface, and changes with versions. What cannot be read makes the whole table
unknown: an audit of it then says so, and never that all is well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# A line is `Name: X, LayerType: T, Inputs: [ {...}, {...}], Constants: [...], Outputs: [...], ...,
# Metadata: [ONNX Layer: A][ONNX Layer: B]`. Tensors hold brackets of their own, but only behind a colon.
_HEAD = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+),")
_TENSORS = re.compile(r"\{ Name: .*?, Datatype: (\w+)[,} ]")
_SECTIONS = ("Inputs", "Constants", "Outputs")
_METADATA = re.compile(r"\[ONNX Layer: (.*?)\](?=\[|\s|$)")
_START = "Layers:"


@dataclass(frozen=True)
class Layer:
    """One kernel of the engine.

    Attributes:
        name: The compiler's own.
        kind: ``gemm``, ``kgen`` (generated kernel), ``runtime_fusion``, ...
        inputs: Types of its inputs, such as ``Int8`` or ``Half``.
        constants: Types of its constants.
        outputs: Types of its outputs.
        nodes: Names of the ONNX nodes that it computes.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: frozenset[str]

    @property
    def is_int8_gemm(self) -> bool:
        """Whether both operands of a matrix product are INT8."""
        return self.kind == "gemm" and self.inputs[:1] == ("Int8",) and self.constants[:1] == ("Int8",)

    @property
    def is_fused_attention(self) -> bool:
        """Whether this is one of the compiler's attention kernels."""
        return self.kind == "kgen" and "mha" in self.name.lower()


@dataclass(frozen=True)
class LayerTable:
    """The layers of an engine.

    Attributes:
        layers: Those that could be read.
        unreadable: Lines that could not.
    """

    layers: tuple[Layer, ...]
    unreadable: tuple[str, ...]

    @property
    def known(self) -> bool:
        """Whether there was a table, and all of it was read."""
        return bool(self.layers) and not self.unreadable

    def of(self, node: str) -> tuple[Layer, ...]:
        """The layers that compute an ONNX node."""
        return tuple(layer for layer in self.layers if node in layer.nodes)


def parse_layers(text: str) -> LayerTable:
    """Read the table.

    Args:
        text: The log message that starts with ``Layers:``; empty if there was none.
    """
    head, start, rest = text.partition(_START)
    if not start:
        return LayerTable((), (head,) if head.strip() else ())
    layers: list[Layer] = []
    unreadable: list[str] = []
    for line in rest.split("\n"):
        if not line.strip():
            if layers or unreadable:
                break  # bindings and engine metadata follow
            continue
        layer = _parse_line(line)
        if layer is None:
            unreadable.append(line)
        else:
            layers.append(layer)
    return LayerTable(tuple(layers), tuple(unreadable))


def _parse_line(line: str) -> Layer | None:
    """One layer; None if the line does not have the form that is known."""
    head = _HEAD.match(line)
    if head is None or "Metadata:" not in line:
        return None
    body, _, metadata = line[head.end() :].rpartition("Metadata:")
    types: dict[str, tuple[str, ...]] = {}
    for number, section in enumerate(_SECTIONS):
        at = body.find(f"{section}: [")
        if at < 0:
            if section == "Constants":  # host-side layers have none
                types[section] = ()
                continue
            return None
        ends = [e for later in _SECTIONS[number + 1 :] if (e := body.find(f"{later}: [", at + 1)) > 0]
        part = body[at : min(ends, default=len(body))]
        found = tuple(_TENSORS.findall(part))
        if len(found) != part.count("{ Name:"):
            return None
        types[section] = found
    return Layer(
        head["name"],
        head["kind"],
        types["Inputs"],
        types["Constants"],
        types["Outputs"],
        frozenset(_METADATA.findall(metadata)),
    )
