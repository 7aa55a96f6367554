"""The spans of one trace as a tree, with what each span spent by itself.

Triton's spans say less than its events: the time in a model's queue is from ``QUEUE_START`` to the start of
``compute``, which becomes a node of its own here. And the backends' spans, whose parent is the model's span,
are put below the ``compute`` during which they were made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from observability.otlp import Span

COMPUTE, QUEUE = "compute", "queue"
MODEL_NAME = "triton.model_name"
_QUEUED = "QUEUE_START"


@dataclass(slots=True, eq=False)
class Node:
    """A span with those below it.

    Attributes:
        span: The span.
        children: In the order of their starts.
        derived: It was made of events of its parent, and never sent.
    """

    span: Span
    children: list[Node] = field(default_factory=list)
    derived: bool = False

    @property
    def duration(self) -> int:
        """Nanoseconds from start to end."""
        return self.span.end - self.span.start

    @property
    def reach(self) -> int:
        """End of the last below it: a decoupled model's span ends before its answers are complete."""
        return max([self.span.end, *(child.reach for child in self.children)])

    @property
    def own(self) -> int:
        """Nanoseconds in which it ran and none of its children did."""
        covered, at = 0, self.span.start
        for child in self.children:
            start, end = max(child.span.start, at), min(child.reach, self.span.end)
            if end > start:
                covered += end - start
                at = end
        return self.duration - covered

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Node]]:
        """It and all below it, each with its depth, in the order of a waterfall."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)

    def critical(self, start: int, end: int) -> Iterator[tuple[Node, int]]:
        """Share a time out over it and all below it, each moment to the one that the answer waited for.

        Where two children overlap, that is the later one: it had what it needed, so nobody waited for what
        the earlier one still did.

        Args:
            start: Nanoseconds since 1970.
            end: The same.
        """
        own, at = 0, end
        for child in reversed(self.children):
            begun, ended = max(child.span.start, start), min(child.reach, at)
            if ended > begun:
                own += at - ended
                yield from child.critical(begun, ended)
                at = begun
        yield self, own + at - start


def trees(spans: Sequence[Span]) -> list[Node]:
    """Arrange spans of one trace; a span whose parent is not among them is a root.

    Args:
        spans: In any order.
    """
    nodes = {span.span_id: Node(span) for span in sorted(spans, key=lambda span: (span.start, -span.end))}
    roots: list[Node] = []
    for node in nodes.values():
        parent = nodes.get(node.span.parent_id)
        (roots if parent is None or parent is node else parent.children).append(node)
    for node in nodes.values():
        compute = next((child for child in node.children if child.span.name == COMPUTE), None)
        if compute is not None:
            _arrange(node, compute)
    return roots


def _arrange(model: Node, compute: Node) -> None:
    """Put the backend's spans below ``compute``, and the queue before it."""
    own = [child for child in model.children if child.span.service != compute.span.service]
    model.children = [child for child in model.children if child not in own]
    compute.children = sorted([*compute.children, *own], key=lambda child: child.span.start)
    queued = dict(model.span.events).get(_QUEUED, compute.span.start)
    if queued < compute.span.start:
        span = Span(
            model.span.trace_id,
            "",
            model.span.span_id,
            model.span.service,
            QUEUE,
            queued,
            compute.span.start,
            {MODEL_NAME: model.span.attributes.get(MODEL_NAME)},
        )
        model.children.insert(0, Node(span, derived=True))
