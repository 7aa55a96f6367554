"""Compiles graphs meant for TensorRT with TensorRT for RTX, which needs no GPU, and audits the outcome.

It proves that NVIDIA's parser and type checker take the graph, that the profiles fit, and that in this
compiler INT8 and attention reach the kernels they should. It does not prove what the data-centre
TensorRT chooses, nor speed, nor accuracy; its plans cannot be served.
"""

from build_engines.check.rtx.audit import Audit, audit
from build_engines.check.rtx.compile import AheadBuild, AheadResult, ParserError, compile_ahead
from build_engines.check.rtx.layers import Layer, LayerTable, parse_layers

__all__ = [
    "AheadBuild",
    "AheadResult",
    "Audit",
    "Layer",
    "LayerTable",
    "ParserError",
    "audit",
    "compile_ahead",
    "parse_layers",
]
