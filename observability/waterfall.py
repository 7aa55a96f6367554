"""One request as a waterfall: a line for each span, a bar where it lies in the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from observability.stages import Stage, part_of
from observability.tree import Node

_STYLES = {"client": "white", "door": "magenta", "facade": "cyan", "triton": "green", "backends": "yellow"}
_SHOWN = {
    "error.type": "error",
    "http.response.status_code": "status",
    "http.status_code": "status",
    "gen_ai.usage.input_tokens": "input tokens",
    "gen_ai.usage.output_tokens": "output tokens",
    "gen_ai.response.finish_reason": "finish",
    "tritonforge.texts": "texts",
    "tritonforge.sequences": "sequences",
    "tritonforge.tokens": "tokens",
    "tritonforge.batch.requests": "requests in batch",
    "tritonforge.batch.tokens": "tokens in batch",
    "tritonforge.run.tokens": "run tokens",
    "tritonforge.sequences.running": "running",
    "tritonforge.detokenize_ms": "detokenize ms",
    "response_flags": "flags",
}
"""Attributes that a line has room for, by the words for them."""
_FIRST = ("first response", "first byte", "first token")
_MS = 1e6


def waterfall(roots: Sequence[Node], *, title: str = "", width: int = 100) -> Table:
    """A table with a line for each span.

    Args:
        roots: As :func:`observability.tree.trees` gives them.
        title: Over the table.
        width: Columns of the terminal; the bars get a quarter of them.
    """
    start = min(root.span.start for root in roots)
    total = max(max(node.span.end for root in roots for _, node in root.walk()) - start, 1)
    columns = max(12, width // 4)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    table.add_column("span", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=columns)
    for name in ("at ms", "ms", "self ms"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for root in roots:
        said: list[dict[str, Any]] = []
        for depth, node in root.walk():
            told = facts(node)
            said[depth:] = [told]
            above = said[depth - 1] if depth else {}
            style = _STYLES.get(part_of(node.span), "blue")
            table.add_row(
                Text("  " * depth + label(node), "red" if node.span.failed else style),
                Text(_bar(node.span.start - start, node.duration, total, columns), style),
                f"{(node.span.start - start) / _MS:.2f}",
                f"{node.duration / _MS:.2f}",
                f"{node.own / _MS:.2f}",
                Text(", ".join(f"{key} {value}" for key, value in told.items() if above.get(key) != value)),
            )
    return table


def label(node: Node) -> str:
    """What a span is called in a line: whose it is, and its name."""
    return f"{part_of(node.span)}: {node.span.name}"


def facts(node: Node) -> dict[str, Any]:
    """The attributes that a line shows, by their short names."""
    found: dict[str, Any] = {}
    for key, name in _SHOWN.items():
        value = node.span.attributes.get(key)
        if value not in (None, "", "-"):
            found[name] = round(value, 3) if isinstance(value, float) else value
    for name, at in node.span.events:
        if name in _FIRST:
            found[f"{name} at ms"] = round((at - node.span.start) / _MS, 2)
            break
    if node.span.links:
        found["linked to"] = node.span.links[0][1]
    return found


def stage_table(stages: Sequence[Stage], *, most: int = 8) -> Table:
    """Where the time went, the most first.

    Args:
        stages: As :func:`observability.stages.stages` gives them.
        most: Lines; less than a hundredth of the whole is left out too.
    """
    total = sum(stage.nanoseconds for stage in stages) or 1
    table = Table(title="where the time went", title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    table.add_column("stage", no_wrap=True)
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    table.add_column("if it is too much", overflow="fold")
    for stage in stages[:most]:
        if stage.nanoseconds < total / 100:
            break
        share = f"{stage.nanoseconds / total:.0%}"
        table.add_row(stage.name, f"{stage.nanoseconds / _MS:.2f}", share, Text(stage.hint, "dim"))
    return table


def _bar(offset: int, duration: int, total: int, columns: int) -> str:
    before = min(columns - 1, offset * columns // total)
    length = max(1, min(columns - before, round(duration * columns / total)))
    return " " * before + "█" * length
