"""The page ``docs/benchmarks.md``: what was measured, how, and what it came to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from loadtest.peers.answers import IN_FLIGHT
from loadtest.peers.records import Comparison, Ratio, Row, Spread
from loadtest.peers.runner import WARM_S
from loadtest.peers.system import Precision
from tritonforge.files import replace_text

HEADINGS: dict[Precision, str] = {"fp32": "float32", "int8": "INT8"}
_WRK = "https://github.com/wg/wrk"


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, render(comparison))


def render(comparison: Comparison) -> str:
    """The page as Markdown."""
    blocks = [
        "# Benchmarks: the same load on peers",
        f"`{comparison.command}` wrote this page; do not edit it.",
        *_summary(comparison),
        *_method(comparison),
        *(block for precision in HEADINGS for block in _tables(comparison, precision)),
        *_systems(comparison),
        *_limits(comparison),
        *_again(comparison),
    ]
    return "\n\n".join(blocks) + "\n"


def _summary(comparison: Comparison) -> Iterator[str]:
    """Where ours is behind, first; then how far ahead of the best peer."""
    yield "## What it came to"
    if comparison.load_before > comparison.machine.cores / 2:
        yield (
            f"**The machine was busy with other work** (load average {comparison.load_before:.1f} on "
            f"{comparison.machine.cores} cores before it began): no figure on this page is worth anything."
        )
    every = [found for precision in HEADINGS for found in comparison.ratios(precision)]
    behind = [found for found in every if found.spread.median < 1]
    if behind:
        yield "Ours is **slower** here:"
        yield "\n".join(_behind(behind))
    elif every:
        yield "Ours is slower than no peer, in no row and at no number of connections below."
    bad = [row for row in comparison.rows if row.errors() or (row.accuracy and row.accuracy.wrong)]
    for row in bad:
        wrong = row.accuracy.wrong if row.accuracy else 0
        yield f"Mind: {row.title} had {row.errors()} failed requests and {wrong} answers of another text."
    best = [line for precision in HEADINGS for line in _best(comparison, precision)]
    if best:
        yield "Our best row over the best peer of the same precision, requests a second:"
        yield _table(("", *map(_connections, comparison.connections)), best)


def _behind(found: Sequence[Ratio]) -> Iterator[str]:
    """A line for each pair of rows, the worst first."""
    pairs: dict[tuple[str, str], list[Ratio]] = {}
    for one in sorted(found, key=lambda one: one.spread.median):
        pairs.setdefault((one.ours.title, one.peer.title), []).append(one)
    for (ours, peer), single in pairs.items():
        times = ", ".join(f"{_ratio(one.spread)} times at {_connections(one.connections)}" for one in single)
        yield f"- {ours}, against {peer}: {times}"


def _best(comparison: Comparison, precision: Precision) -> Iterator[list[str]]:
    """One line for a precision, where there is something to compare."""
    cells = []
    for connections in comparison.connections:
        top = [
            # Below, only rows with a rate are taken.
            max(rows, key=lambda row: row.rate(connections).median)  # type: ignore[union-attr]
            for ours in (True, False)
            if (rows := [row for row in comparison.of(precision, ours=ours) if row.rate(connections)])
        ]
        found = _find(comparison, top, connections, precision)
        cells.append(f"{_ratio(found.spread)} of {found.peer.title}" if found else "")
    if any(cells):
        yield [HEADINGS[precision], *cells]


def _find(comparison: Comparison, top: Sequence[Row], connections: int, precision: Precision) -> Ratio | None:
    wanted = [row.name for row in top]
    return next(
        (
            found
            for found in comparison.ratios(precision)
            if [found.ours.name, found.peer.name] == wanted and found.connections == connections
        ),
        None,
    )


def _method(comparison: Comparison) -> Iterator[str]:
    machine, threads = comparison.machine, comparison.threads
    when = datetime.fromtimestamp(comparison.started, UTC).strftime("%Y-%m-%d")
    counts = ", ".join(map(str, comparison.connections))
    rounds = "1 round" if comparison.rounds == 1 else f"{comparison.rounds} rounds"
    yield "## Method"
    yield "\n".join(
        [
            f"- **Machine**: {machine.cpu}, {machine.cores} cores, "
            f"{machine.memory_bytes / 2**30:.0f} GiB, {when}. Load average before it began: "
            f"{comparison.load_before:.2f}. Server and client share the cores.",
            f"- **Model**: `{comparison.model}`, the same folder for all.",
            f"- **Threads**: {threads} for each system's engine; OMP_NUM_THREADS, MKL_NUM_THREADS, "
            f"OPENBLAS_NUM_THREADS and RAYON_NUM_THREADS are {threads} for all, and ONNX Runtime's and "
            f"torch's own settings too. Where a row says *a process a thread*, they are shared out. "
            "OMP_WAIT_POLICY is passive for all.",
            f"- **Load**: [{comparison.client}]({_WRK}), one thread, {counts} connections, each of "
            f"which asks again when it is answered; one text a request. {comparison.texts} different texts "
            f"from {comparison.corpus}, lengths in tokens and weights `{comparison.mix}`. No answer is "
            "cached anywhere.",
            f"- **Turns**: {rounds}, of {comparison.seconds:g} s for each row and number "
            f"of connections, after {WARM_S} s of the same load that do not count. In a round each system is "
            "started, measured and ended before the next one starts; the order is turned around with each "
            f"round (A B C, then C B A). All of it took {comparison.took_s / 60:.0f} minutes.",
            "- **Figures**: medians of the rounds; in brackets the least and the greatest. A ratio is that "
            "of the medians, its brackets hold the ratios of single rounds. Failed requests are counted and "
            "are in no rate.",
            f"- **Answers**: every system is asked the same texts, {IN_FLIGHT} at a time, so that batches "
            "mix them. Cosines are to sentence-transformers in float32, one text at a time. An answer that "
            "is nearer to another text's reference counts as wrong.",
        ]
    )


def _tables(comparison: Comparison, precision: Precision) -> Iterator[str]:
    rows = [*comparison.of(precision, ours=True), *comparison.of(precision, ours=False)]
    if not rows:
        return
    counts = comparison.connections
    yield f"## {HEADINGS[precision]}"
    yield "Requests a second, and how near the answers are to the reference's:"
    yield _table(
        ("", *map(_connections, counts), "mean cosine", "least", "wrong", "failed"),
        [
            [_title(row), *(_spread(row.rate(count)) for count in counts), *_accuracy(row), str(row.errors())]
            for row in rows
        ],
    )
    yield "Latency in milliseconds, p50 and p99 (medians of the rounds), and CPU time of a request:"
    yield _table(
        ("", *map(_connections, counts), f"CPU ms at {counts[-1]}"),
        [[_title(row), *(_latency(row, count) for count in counts), _cpu(row, counts[-1])] for row in rows],
    )
    lines = list(_ratio_lines(comparison, precision))
    if lines:
        yield "How many times the peer's requests a second ours makes:"
        yield _table(("ours", "the peer", *map(_connections, counts)), lines, words=2)


def _ratio_lines(comparison: Comparison, precision: Precision) -> Iterator[list[str]]:
    found = {(one.ours.name, one.peer.name, one.connections): one for one in comparison.ratios(precision)}
    for ours in comparison.of(precision, ours=True):
        for peer in comparison.of(precision, ours=False):
            cells = [found.get((ours.name, peer.name, count)) for count in comparison.connections]
            yield [
                ours.title,
                peer.title,
                *(_ratio(cell.spread, bold=True) if cell else "" for cell in cells),
            ]


def _systems(comparison: Comparison) -> Iterator[str]:
    yield "## The systems"
    yield (
        "The peers' programs are in `loadtest/peers/programs/`, a few lines each, as their own documentation "
        "writes them."
    )
    systems = {row.system: row for row in reversed(comparison.rows)}  # the first row of each stays
    yield _table(
        ("", "engine, versions", "batches", "start, s", "CPUs when idle"),
        [
            [
                row.title,
                f"{row.engine}; " + ", ".join(f"{name} {version}" for name, version in row.versions.items()),
                row.batching,
                "" if row.start_s is None else f"{row.start_s:.1f}",
                "" if row.idle_cpus is None else f"{row.idle_cpus:.2f}",
            ]
            for row in reversed(systems.values())
        ],
        words=3,
    )
    yield "What an answer holds, and its size:"
    yield _table(
        ("", "answer", "bytes"),
        [
            [row.title, row.answer, "" if row.answer_bytes is None else f"{row.answer_bytes:.0f}"]
            for row in comparison.rows
        ],
        words=2,
    )
    if comparison.skipped:
        yield "Not measured, or not to the end:"
        yield "\n".join(f"- {each.title}: {each.reason}" for each in comparison.skipped)


def _limits(comparison: Comparison) -> Iterator[str]:
    yield "## What cannot be compared"
    yield "\n".join(
        [
            "- **The door checks, the peers do not**: its rows include RS256 tokens, scopes, limits and an "
            "access log. Triton's own HTTP is what stands beside a peer's server.",
            "- **INT8 is not one thing**: the peers run sentence-transformers' dynamic quantization in ONNX "
            "Runtime; ours is calibrated, or dynamic in another engine. The cosines say what each costs.",
            "- **Answers differ in size** for the same numbers: some write a float32 in 9 digits, some the "
            "double that it becomes in 17 or more.",
            "- **Latency under 16 and 64 connections** follows from the rate, since each asks again at once. "
            "Latency at a given rate is another test: [load tests](loadtest.md).",
            "- **Two cores** leave little to a server's many processes; on larger machines those that use "
            "several processes lose less.",
            "- **Not here**: what comes as a container image or needs a GPU, such as Hugging Face's "
            "text-embeddings-inference, OpenVINO Model Server, and NVIDIA's NIM.",
        ]
    )


def _again(comparison: Comparison) -> Iterator[str]:
    yield "## Again"
    yield (
        "The peers' environments, the ONNX forms of the model and our own engines go to `build/peers` and "
        "`build/compare`: about 11 GB and half an hour, once."
    )
    minutes = comparison.took_s / 60
    reason = f"takes {minutes:.0f} minutes; a test does it with ours and a tiny model"
    yield (
        f"```bash not-run: {reason}\n"
        "apt-get install wrk\n"
        "tritonforge compare install\n"
        f"{comparison.command}\n"
        "```"
    )
    yield (
        "`--quick` takes one short round of each, `--peers fastapi,infinity` only some, and `--json` prints "
        "the figures. They are also in `build/compare/comparison.json`, and `tritonforge compare page` "
        "writes this page from there."
    )


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]], words: int = 1) -> str:
    """A Markdown table whose first columns, ``words`` of them, are text, the others numbers."""
    rule = ["---" if number < words else "---:" for number in range(len(headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *lines))


def _title(row: Row) -> str:
    return f"**{row.title}**" if row.ours else row.title


def _connections(count: int) -> str:
    return "1 connection" if count == 1 else f"{count} connections"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return ""
    if spread.low == spread.high:
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.low)} to {_number(spread.high)})"


def _ratio(spread: Spread, *, bold: bool = False) -> str:
    median = f"{spread.median:.2f}"
    if bold and spread.median < 1:
        median = f"**{median}**"
    return median if spread.low == spread.high else f"{median} ({spread.low:.2f} to {spread.high:.2f})"


def _latency(row: Row, connections: int) -> str:
    turns = row.at(connections).values()
    p50, p99 = (
        Spread.of([turn.p50_ms for turn in turns]),
        Spread.of([turn.p99_ms for turn in turns]),
    )
    return "" if p50 is None or p99 is None else f"{_number(p50.median)}, {_number(p99.median)}"


def _cpu(row: Row, connections: int) -> str:
    spread = Spread.of([turn.cpu_ms for turn in row.at(connections).values()])
    return "" if spread is None else _number(spread.median)


def _accuracy(row: Row) -> list[str]:
    found = row.accuracy
    if found is None:
        return ["not judged", "", ""]
    return [f"{found.mean:.4f}", f"{found.least:.4f}", f"{found.wrong} of {found.texts}"]
