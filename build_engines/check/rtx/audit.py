"""Did INT8 and attention reach the kernels they were meant for?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from build_engines.check.lint.graph import Attention
from build_engines.check.rtx.layers import Layer, LayerTable


@dataclass(frozen=True)
class Audit:
    """What the layer table shows.

    Attributes:
        verdict: ``unknown`` if the table, or a node in it, could not be found; never a pass then.
        int8: Linear layers that are true INT8 GEMMs.
        not_int8: Linear layers chosen for INT8 that are not.
        fused: Attention layers that are one kernel.
        not_fused: Attention layers that are several.
        merged: Attention layers whose q/k/v projections are one GEMM.
        not_merged: Those whose projections share an input and are several all the same.
        missing: Nodes that no layer of the table names.
        unreadable: Lines of the table that could not be read.
    """

    verdict: Literal["pass", "fail", "unknown"]
    int8: tuple[str, ...]
    not_int8: tuple[str, ...]
    fused: tuple[str, ...]
    not_fused: tuple[str, ...]
    merged: tuple[str, ...]
    not_merged: tuple[str, ...]
    missing: tuple[str, ...]
    unreadable: tuple[str, ...]

    def problems(self) -> tuple[str, ...]:
        """In words, one a line."""
        return (
            *(f"{node} was chosen for INT8 and runs in higher precision" for node in self.not_int8),
            *(f"attention at {node} is not one fused kernel" for node in self.not_fused),
            *(
                f"the q/k/v projections of the attention at {node} are not one GEMM"
                for node in self.not_merged
            ),
            *(f"no layer of the table names {node}" for node in self.missing),
            *(f"unreadable line of the layer table: {line[:120]}" for line in self.unreadable),
        )


def audit(table: LayerTable, linear_layers: Iterable[str], attention_layers: Iterable[Attention]) -> Audit:
    """Hold the compiler's layers against what the graph asked for.

    Args:
        table: As parsed from the compiler's log.
        linear_layers: Names of the MatMul and Gemm nodes that were chosen for INT8
            (:func:`build_engines.check.lint.graph.quantized_linear_layers`).
        attention_layers: Every attention of the graph
            (:meth:`build_engines.check.lint.graph.LintGraph.attentions`).
    """
    linear_layers, attention_layers = list(linear_layers), list(attention_layers)
    missing: list[str] = []

    def layers_of(node: str) -> tuple[Layer, ...]:
        found = table.of(node)
        if not found:
            missing.append(node)
        return found

    int8, not_int8 = _split(
        (node, any(layer.is_int8_gemm for layer in found))
        for node in linear_layers
        if (found := layers_of(node))
    )
    fused, not_fused = _split(
        (attention.softmax, _is_one_kernel(table, attention))
        for attention in attention_layers
        if layers_of(attention.softmax)
    )
    merged, not_merged = _split(
        (attention.softmax, any(set(attention.projections) <= layer.nodes for layer in table.layers))
        for attention in attention_layers
        if attention.share_input and not [node for node in attention.projections if not layers_of(node)]
    )
    bad = not_int8 or not_fused or not_merged
    unknown = not table.known or bool(missing)
    return Audit(
        verdict="fail" if bad else "unknown" if unknown else "pass",
        int8=int8,
        not_int8=not_int8,
        fused=fused,
        not_fused=not_fused,
        merged=merged,
        not_merged=not_merged,
        missing=tuple(dict.fromkeys(missing)),
        unreadable=table.unreadable,
    )


def _is_one_kernel(table: LayerTable, attention: Attention) -> bool:
    """Whether one attention kernel computes scores, softmax and the weighted sum."""
    wanted = {attention.scores, attention.softmax, attention.weighted}
    return any(layer.is_fused_attention and wanted <= layer.nodes for layer in table.layers)


def _split(judged: Iterable[tuple[str, bool]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that passed, and names that did not."""
    pairs = list(judged)
    return tuple(name for name, good in pairs if good), tuple(name for name, good in pairs if not good)
