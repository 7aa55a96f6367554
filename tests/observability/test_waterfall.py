"""Trees of spans: who is below whom, what each spent by itself, and what a person reads of it."""

from __future__ import annotations

import io

from rich.console import Console

from observability.otlp import Span
from observability.stages import stages
from observability.tree import trees
from observability.waterfall import stage_table, waterfall

MS = 1_000_000


def span(key: str, parent: str, service: str, name: str, start: float, end: float, **more: object) -> Span:
    return Span(
        "t",
        key,
        parent,
        f"tritonforge-{service}",
        name,
        int(start * MS),
        int(end * MS),
        **more,
    )


def request() -> list[Span]:
    """A request to an engine model, 20 ms: 5 in its queue, 8 of 10 in compute by the engine."""
    engine = {"triton.model_name": "engine"}
    return [
        span("f", "e", "backends", "forward", 9, 17, attributes={"tritonforge.run.tokens": 7}),
        span("e", "m", "backends", "encode", 8, 18, attributes={"tritonforge.batch.requests": 3}),
        span("c", "m", "triton", "compute", 8, 18),
        span("m", "i", "triton", "engine", 2, 18, attributes=engine, events=(("QUEUE_START", 3 * MS),)),
        span("i", "r", "triton", "InferRequest", 1, 19),
        Span("t", "r", "", "client", "request", 0, 20 * MS),
    ]


def test_the_tree_has_the_queue_and_the_backend_below_compute() -> None:
    (root,) = trees(request())
    shape = [(depth, node.span.name, node.own / MS) for depth, node in root.walk()]
    assert shape == [
        (0, "request", 2),
        (1, "InferRequest", 2),
        (2, "engine", 1),
        (3, "queue", 5),
        (3, "compute", 0),
        (4, "encode", 2),
        (5, "forward", 8),
    ]
    assert [node.derived for _, node in root.walk()] == [False, False, False, True, False, False, False]


def test_stages_add_up_to_the_request_and_the_longest_comes_first() -> None:
    found = stages(trees(request()))
    assert sum(stage.nanoseconds for stage in found) == 20 * MS
    assert [stage.name for stage in found[:2]] == ["forward", "queue of engine"]
    assert "instances" in found[1].hint


def test_a_step_that_cleans_up_while_the_next_one_works_is_not_waited_for() -> None:
    (root,) = trees(
        [
            span("e", "", "triton", "both", 0, 10, attributes={"triton.model_name": "both"}),
            span("a", "e", "triton", "first", 1, 7, attributes={"triton.model_name": "first"}),
            span("b", "e", "triton", "second", 3, 9, attributes={"triton.model_name": "second"}),
        ]
    )
    found = {stage.name: stage.nanoseconds / MS for stage in stages([root])}
    assert found == {
        "Triton's scheduling of both": 2,
        "Triton's scheduling of first": 2,
        "Triton's scheduling of second": 6,
    }


def test_overlapping_children_count_once_and_late_ones_only_within_their_parent() -> None:
    (root,) = trees(
        [
            span("r", "", "facade", "POST /x", 0, 10),
            span("a", "r", "facade", "call A", 1, 6),
            span("b", "r", "facade", "call B", 2, 8),
            span("c", "r", "facade", "call C", 9, 30),
        ]
    )
    assert root.own == 2 * MS


def test_what_a_decoupled_model_does_after_its_span_is_not_its_front_end_s() -> None:
    (root,) = trees(
        [
            span("i", "", "triton", "InferRequest", 0, 100),
            span("m", "i", "triton", "gen", 1, 4, attributes={"triton.model_name": "gen"}),
            span("c", "m", "triton", "compute", 2, 4),
            span("g", "m", "backends", "generate", 3, 99),
        ]
    )
    assert root.own == 2 * MS


def test_a_span_whose_parent_never_came_is_a_root() -> None:
    roots = trees([span("b", "lost", "triton", "InferRequest", 5, 6), span("a", "", "door", "/embed*", 0, 9)])
    assert [root.span.name for root in roots] == ["/embed*", "InferRequest"]


def test_a_person_reads_bars_times_batch_and_tokens() -> None:
    output = io.StringIO()
    console = Console(file=output, width=140)
    roots = trees(request())
    console.print(waterfall(roots, title="engine", width=140))
    console.print(stage_table(stages(roots)))
    lines = output.getvalue().splitlines()
    forward = next(line for line in lines if "backends: forward" in line)
    assert forward.split("█")[-1].split()[:3] == ["9.00", "8.00", "8.00"]
    assert "run tokens 7" in forward
    bar = forward.index("█")
    assert bar > next(line for line in lines if "client: request" in line).index("█")
    assert any("requests in batch 3" in line for line in lines)
    assert any("40%" in line and "forward" in line for line in lines)
