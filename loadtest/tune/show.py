"""Tables of a search for people: on the terminal, and as a page."""

from __future__ import annotations

import io
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtest.tune.records import Trial, Tuning, Verdict
from loadtest.tune.space import as_yaml
from tritonforge.files import replace_text

_SHOWN = 8  # trials in the table on the terminal
_NOISY = 0.15
_WIDTH = 130  # of the page, in characters


def summary(tuning: Tuning, most: int | None = _SHOWN) -> RenderableType:
    """What was found."""
    parts: list[RenderableType] = [_trials(tuning, most), Text(_counts(tuning))]
    if tuning.importance:
        shares = (f"{key} {share:.0%}" for key, share in tuning.importance.items() if share >= 0.005)
        parts.append(Text(f"what mattered (fANOVA): {', '.join(shares)}"))
    if tuning.verdict:
        parts += [Text(), _verdict(tuning.verdict)]
    return Group(*parts)


def write_page(tuning: Tuning, folder: Path) -> Path:
    """Write ``report.html``, which stands alone; returns its path."""
    console = Console(record=True, file=io.StringIO(), width=_WIDTH)
    console.print(Text(f"tuning of {tuning.model}", style="bold"))
    goal, load = tuning.goal, tuning.load
    console.print(
        f"{tuning.engine} {tuning.precision}; {goal['objective']} with {goal['levels']} in flight, "
        f"p99 at most {goal['slo_p99_ms']} ms; {load['items']} item(s) a request, lengths "
        f"{load['length_mix']}; "
        f"{tuning.machine['cpu']}, {tuning.machine['cores']} cores",
        highlight=False,
    )
    console.print(summary(tuning, None))
    if tuning.result:
        console.print(Text(tuning.result))
    console.print(Text(f"again: {tuning.command}"))
    path = folder / "report.html"
    replace_text(path, console.export_html(inline_styles=True))
    return path


def row(trial: Trial, default: dict[str, object], unit: str) -> str:
    """One line for a trial that has just ended."""
    if not trial.number:
        return f"the default: {trial.score:.1f} {unit}"
    # The default that is measured next may change it.
    ratio = f"about {trial.ratio:.2f} of the default" if trial.ratio else ""
    remark = _remark(trial).partition("\n")[0]
    return f"{', '.join(_differing(trial, default))}: {', '.join(filter(None, (ratio, remark)))}"


def _trials(tuning: Tuning, most: int | None) -> Table:
    table = Table(title=f"tune {tuning.model}, the best first", title_justify="left", box=SIMPLE_HEAD)
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    table.add_column("#", justify="right")
    table.add_column("what differs from the default", overflow="fold")
    slo = tuning.goal["slo_p99_ms"]
    for heading in ("to default", "at the SLO" if slo else "score", "in flight", "items/s", "p99 ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    default = tuning.trials[0].settings if tuning.trials else {}
    ranked = sorted(tuning.trials, key=_rank)
    shown = ranked[:most]
    if tuning.trials and tuning.trials[0] not in shown:
        shown.append(tuning.trials[0])
    for trial in shown:
        what = Text("\n".join(_differing(trial, default)))
        if remark := _remark(trial):
            what.append(f"\n{remark}", "italic")
        table.add_row(
            str(trial.number),
            what,
            "" if trial.ratio is None else f"{trial.ratio:.3f}",
            "" if trial.score is None else f"{trial.score:.1f}",
            *_figures(trial, slo),
        )
    if len(ranked) > len(shown):
        table.caption = f"{len(ranked) - len(shown)} more in trials.json"
    return table


def _figures(trial: Trial, slo_ms: float | None) -> tuple[str, ...]:
    """Of the highest load within the SLO, the lowest where there is none."""
    if not trial.looks:
        return ("", "", "")
    met = [look for look in trial.looks if slo_ms is None or look.p99_ms <= slo_ms]
    look = met[-1] if met else trial.looks[0]
    return (str(look.level), f"{look.items_per_second:.1f}", f"{look.p99_ms:.1f}")


def _differing(trial: Trial, default: dict[str, object]) -> list[str]:
    return [
        f"{key} {as_yaml(value)}" for key, value in trial.settings.items() if value != default.get(key)
    ] or ["the default"]


def _remark(trial: Trial) -> str:
    if trial.status == "failed":
        return f"failed: {trial.error}"
    if trial.status == "pruned":
        return "given up after a first look"
    words = ["in the run-off"] if trial.stage == "run-off" else []
    return ", ".join([*words, "misses the SLO"] if trial.violation else words)


def _rank(trial: Trial) -> tuple[int, float]:
    order = {"measured": 0, "pruned": 2, "failed": 3}[trial.status]
    return (order + (trial.status == "measured" and trial.violation > 0), -(trial.ratio or 0.0))


def _counts(tuning: Tuning) -> str:
    counts = [(status, sum(t.status == status for t in tuning.trials)) for status in ("pruned", "failed")]
    said = ", ".join(f"{count} {status}" for status, count in counts if count)
    noise = "" if tuning.spread is None else f"; the default itself varied by {tuning.spread:.1%}"
    if tuning.spread is not None and tuning.spread > _NOISY:
        noise += ", so this machine is too busy for a search"
    return f"{len(tuning.trials)} trials{f', {said}' if said else ''}; {tuning.ended}{noise}"


def _verdict(verdict: Verdict) -> RenderableType:
    ratios = ", ".join(f"{pair.winner / pair.default:.3f}" for pair in verdict.pairs)
    count = len(verdict.pairs)
    return Group(
        Text(f"on fresh servers with other texts, winner to default in {count} pairs: {ratios}"),
        Text("geometric mean, with its 95 % confidence interval:"),
        Text(
            f"{verdict.ratio:.3f} ({verdict.low:.3f} to {verdict.high:.3f}): {verdict.why}",
            "bold green" if verdict.better else "bold yellow",
        ),
    )
