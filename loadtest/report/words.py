"""The results of load tests in sentences."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from loadtest.report.capacity import Capacity
from loadtest.report.compare import Cell, Comparison
from loadtest.report.plots import Read
from loadtest.report.sweep import level
from loadtest.report.timeline import Growth
from loadtest.results import LoadRun, Setting
from tritonforge.page.formats import ABSENT, number

TARGETS = {
    "triton-grpc": "gRPC straight to Triton",
    "triton-http": "HTTP straight to Triton",
    "rest": "the gateway's REST",
    "openai": "the gateway's OpenAI API",
    "websocket": "the gateway's WebSocket",
    "sse": "server-sent events",
}
_FACTOR_FROM = 3.0
_TELLS_NOTHING = 10.0  # a bound of a ratio, or one over it
_LOCAL = ("127.", "localhost", "[::1]", "unix:")


def items(setting: Setting) -> str:
    """What is counted beside requests."""
    return "tokens" if setting.task == "generation" else "texts"


def capacity_sentence(read: Read) -> str:
    """What a server does within an objective, as a sentence that stands alone."""
    capacity, setting = read.capacity, read.sweep.run.setting
    if capacity is None:
        return _peak_sentence(read)
    model, slo = setting.model, capacity.slo
    rate = f"{number(round(capacity.requests_per_second, 1))} requests/s"
    if setting.items_per_request != 1:
        rate += f" ({number(round(capacity.items_per_second, 1))} {items(setting)}/s)"
    if capacity.outcome == "unknown":
        return f"Whether {model} keeps {slo} is not known: {'; '.join(capacity.notes)}."
    if capacity.outcome == "none":
        assert capacity.missed is not None
        return (
            f"{model} keeps {slo} at no level that was measured: at {level(capacity.missed)} already "
            f"{', '.join(capacity.why)}."
        )
    if capacity.outcome == "at_least":
        assert capacity.met is not None
        return (
            f"{model} serves at least {rate} at {slo}{_interval(capacity)}: every level up to "
            f"{level(capacity.met)} keeps it, and more load was not tried."
        )
    assert capacity.met is not None and capacity.missed is not None
    return (
        f"{model} serves {rate} at {slo}{_interval(capacity)}: between {level(capacity.met)}, which keeps "
        f"it, and {level(capacity.missed)}, where {', '.join(capacity.why)}."
    )


def _interval(capacity: Capacity) -> str:
    if capacity.interval is None:
        return ""
    low, high = (number(round(bound, 1)) if math.isfinite(bound) else "" for bound in capacity.interval)
    return f" (95% interval {low} to {high})" if high else f" (95% sure of {low})"


def _peak_sentence(read: Read) -> str:
    """The highest throughput that was seen, where no objective was given."""
    sound = read.sweep.sound
    if not sound:
        return f"{read.sweep.run.setting.model} answered at no level as it should."
    best = max(sound, key=lambda point: point.requests_per_second)
    tail = (
        f", with p50 {number(best.latency.p50)} and p99 {number(best.latency.p99)} ms" if best.latency else ""
    )
    return (
        f"{read.sweep.run.setting.model} answered at most {number(round(best.requests_per_second, 1))} "
        f"requests/s, at {level(best)}{tail}."
    )


def knee_sentence(read: Read) -> str:
    """Where the knee is."""
    knee = read.knee
    if knee is None:
        return "The knee cannot be told from fewer than three sound levels."
    if knee.edge == "first":
        return (
            f"The knee is at {level(knee.point)}, the lowest level, or below: from there on more load costs "
            "more in latency than it gains in throughput."
        )
    if knee.edge == "last":
        return f"The knee is at {level(knee.point)}, the highest level, or beyond: load it more to find it."
    assert knee.below is not None and knee.above is not None
    return (
        f"The knee is near {level(knee.point)}, between {level(knee.below)} and {level(knee.above)}: beyond "
        "it more load costs more in latency than it gains in throughput."
    )


def where_sentence(run: LoadRun) -> str:
    """With what and where a run was measured."""
    setting, machine = run.setting, run.setting.machine
    target = TARGETS.get(setting.target, setting.target)
    threads = "unknown threads" if setting.engine_threads is None else _threads(setting.engine_threads)
    client = ", client and server on the same machine" if is_local(setting.url) else ", as the client sees it"
    gpu = f", {', '.join(machine.gpu)}" if machine.gpu else ""
    cores = "1 core" if machine.cores == 1 else f"{machine.cores} cores"
    return (
        f"Measured {_day(run.started)} by {setting.tool} over {target} on {machine.cpu}, {cores}{gpu}; "
        f"{setting.engine or 'the engine'} with {threads}{client}."
    )


def _threads(count: int) -> str:
    return "all cores" if count == 0 else "1 thread" if count == 1 else f"{count} threads"


def is_local(url: str) -> bool:
    """Whether an address is this machine's own."""
    return url.partition("//")[2].startswith(_LOCAL) or url.startswith(_LOCAL)


def _day(started: float) -> str:
    return f"{datetime.fromtimestamp(started, UTC):%Y-%m-%d %H:%M} UTC"


def growth_sentence(growth: Growth) -> str:
    """How memory changed over a soak."""
    low, high, mean = (
        number(round(bytes_ / 1e6, 1)) for bytes_ in (growth.low, growth.high, growth.per_hour)
    )
    over = f"over {growth.seconds / 60:.0f} minutes, the first fifth of the run left out"
    if growth.low <= 0 <= growth.high:
        return f"Memory neither grew nor fell for sure: {mean} MB/h (95% interval {low} to {high}), {over}."
    way = "grew" if growth.per_hour > 0 else "fell"
    return f"Memory {way}: {mean} MB/h (95% interval {low} to {high}), {over}."


def cell_words(cell: Cell) -> str:
    """A verdict with its figure: ``better by 12.0%``."""
    if cell.verdict in ("better", "worse"):
        return f"{cell.verdict} by {_size(cell)}"
    return "no difference can be told" if cell.verdict == "unclear" else f"not judged: {cell.why}"


def _size(cell: Cell) -> str:
    """How large a change is: a share, or a factor where that is easier to grasp."""
    factor = max(cell.ratio, 1 / cell.ratio)
    return f"{abs(cell.change):.1%}" if factor < _FACTOR_FROM else f"a factor of {factor:.1f}"


def interval_words(cell: Cell) -> str:
    """Bounds of a ratio, cut where they say nothing more."""
    if cell.low is None or cell.high is None:
        return ABSENT
    low = f"{cell.low:.3f}" if cell.low >= 1 / _TELLS_NOTHING else f"<{1 / _TELLS_NOTHING:g}"
    high = f"{cell.high:.3f}" if cell.high <= _TELLS_NOTHING else f">{_TELLS_NOTHING:g}"
    return f"{low} to {high}"


def comparison_sentence(found: Comparison) -> str:
    """What a comparison comes to."""
    better, worse = found.found("better"), found.found("worse")
    judged = [cell for cell in found.cells if cell.verdict != "not judged"]
    if not judged:
        return "Nothing can be judged: the runs have too few windows."
    if not better and not worse:
        return f"No difference can be told from these runs. {_blind(judged)}"
    parts = [
        f"B is {way} in {_listed(cells)}" for way, cells in (("better", better), ("worse", worse)) if cells
    ]
    rest = len(judged) - len(better) - len(worse)
    tail = f" In {rest} of {len(judged)} figures no difference can be told." if rest else ""
    return f"{'; '.join(parts)}.{tail}"


def _listed(cells: list[Cell]) -> str:
    """Figures, each with its levels: a single level by name, several by count and range."""
    said = []
    for name in dict.fromkeys(cell.name for cell in cells):
        own = [cell for cell in cells if cell.name == name]
        own.sort(key=lambda cell: abs(cell.change))
        if len(own) == 1:
            said.append(f"{name} at {level(own[0].at)} (by {_size(own[0])})")
        else:
            said.append(f"{name} at {len(own)} levels (by {_size(own[0])} to {_size(own[-1])})")
    return ", ".join(said)


def _blind(cells: list[Cell]) -> str:
    """How large a difference could have gone unseen: half an interval's width, of the median figure."""
    widths = sorted(math.sqrt(cell.high / cell.low) - 1 for cell in cells if cell.low and cell.high)
    if not widths:
        return ""
    width = widths[len(widths) // 2]
    least = f"{width:.0%}" if width < _FACTOR_FROM - 1 else f"a factor of {width + 1:,.0f}"
    return f"One smaller than about {least} would not have been seen."
