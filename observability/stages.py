"""Where the time of a request went: the nodes of its tree by stage, each with what can be done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from observability.otlp import Span
from observability.tree import COMPUTE, MODEL_NAME, QUEUE, Node

CLIENT = "client"
_HINTS = {
    "client": "outside of the servers: the network, the client's own work, CPUs that are busy elsewhere",
    "door": "Envoy: TLS, filters, or too few `envoy.concurrency` for the connections",
    "admission": "the check of keys and shared limits; Redis far away, or busy facade processes",
    "facade": "the facade's own work: more `facade.workers`, or smaller bodies",
    "call": "between facade and Triton: Envoy's way to the pool, retries, a gRPC server out of threads",
    "front": "Triton's front end: large tensors in JSON cost much; gRPC or shared memory cost less",
    "ensemble": "Triton between the steps of the ensemble",
    "queue": "waiting for an instance or a fuller batch: more instances, a shorter queue delay, more servers",
    "compute": "between Triton and the stub: tensors in and out of shared memory, or a stub short of CPU",
    "tokenize": "tokenizer: more instances or threads.tokenizer, shorter texts",
    "assemble": "putting the batch together; it grows with the requests of a batch",
    "forward": "the engine: a faster precision, more threads.engine, shorter texts; a batch shares it",
    "encode": "making the answers",
    "waiting": "waiting for a place among max_num_seqs sequences: more of them, or more servers",
    "prefill": "reading the prompt: shorter prompts, prefix caching, fewer sequences at once",
    "decode": "token after token: fewer max_tokens, a smaller weight precision, fewer sequences at once",
    "generate": "around the generation: checks, answers being sent",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One kind of work in a request.

    Attributes:
        name: For people.
        nanoseconds: In which the answer waited for it, over all its spans.
        hint: What can be done where it is too much.
    """

    name: str
    nanoseconds: int
    hint: str


def stages(roots: Sequence[Node]) -> list[Stage]:
    """The work in a request, the longest first; together they are its whole time."""
    spent: dict[tuple[str, str], int] = {}
    for root in roots:
        for node, nanoseconds in root.critical(root.span.start, root.span.end):
            kind = _kind(node)
            spent[kind] = spent.get(kind, 0) + nanoseconds
    found = [Stage(name, time, _HINTS[kind]) for (kind, name), time in spent.items() if time]
    return sorted(found, key=lambda stage: -stage.nanoseconds)


def part_of(span: Span) -> str:
    """Which process made a span: ``client``, ``door``, ``facade``, ``triton``, ``backends``."""
    return span.service.rpartition("-")[2] or "?"


def _kind(node: Node) -> tuple[str, str]:
    """Key of the hint, and name for people."""
    span, part = node.span, part_of(node.span)
    model = str(span.attributes.get(MODEL_NAME) or span.attributes.get("tritonforge.model") or "")
    if part == "backends":
        kind = "waiting" if span.name == QUEUE else span.name
        name = "in line for a place" if kind == "waiting" else f"{span.name} {model}".strip()
        return (kind, name) if kind in _HINTS else ("compute", name)
    if part == "triton":
        if span.name == QUEUE:
            return QUEUE, f"queue of {model}"
        if span.name == COMPUTE:
            return COMPUTE, "compute, outside of the backend's spans"
        return ("ensemble", f"Triton's scheduling of {model}") if model else ("front", "Triton's front end")
    if part == "door":
        return ("admission", "admission") if span.name.startswith("async") else ("door", "Envoy at the door")
    if part == "facade":
        return (
            ("call", "the way from facade to Triton")
            if span.name.startswith("call")
            else ("facade", "facade")
        )
    return CLIENT, "client and network"
