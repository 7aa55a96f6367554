"""Tables for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from loadtest.scaling.check import Comparison
from loadtest.scaling.curve import Curve
from loadtest.scaling.fleet import Story
from loadtest.scaling.others import MUCH
from loadtest.scaling.plan import Choices, Needs
from loadtest.scaling.profile import Profile


def show_profile(profile: Profile, curve: Curve, console: Console) -> None:
    """What was measured, and what one server is predicted to do."""
    setting = profile.setting
    console.print(
        f"{setting.model}: {setting.engine or 'engine unknown'}, {setting.machine.cores} cores of "
        f"{setting.machine.cpu}; ready {profile.start_s:.1f} s after its start; a lone request takes "
        f"{profile.overhead_s * 1e3:.1f} ms beside its stages",
        highlight=False,
        soft_wrap=True,
    )
    _warn(max((level.others for level in profile.levels), default=0.0), setting.machine.cores, console)
    table = _table(
        "one server, predicted", ("requests/s", "of its capacity", "p50 ms", "p99 ms", "batch", "waiting")
    )
    for place, rate in enumerate(curve.rates):
        table.add_row(
            f"{rate:.0f}",
            f"{rate / curve.capacity:.0%}",
            _ms(curve.quantile(rate, 0.5)),
            _ms(curve.quantile(rate, 0.99)),
            f"{curve.batch[place]:.1f}",
            f"{curve.pending[place]:.1f}",
        )
    console.print(table)


def show_check(comparisons: Sequence[Comparison], console: Console) -> None:
    """Predicted beside measured."""
    table = _table(
        "predicted / measured",
        ("requests/s", "of closed loops", "p50 ms", "p99 ms", "batch", "off by", "steady", "CPUs of others"),
    )
    for each in comparisons:
        batch = "" if each.batch is None else f" / {each.batch:.1f}"
        table.add_row(
            f"{each.rate:.0f}",
            f"{each.share:.0%}",
            f"{_ms(each.predicted_p50_s)} / {_ms(each.p50_s)}",
            f"{_ms(each.predicted_p99_s)} / {_ms(each.p99_s)}",
            f"{each.predicted_batch:.1f}{batch}",
            f"{each.off():.2f}",
            "yes" if each.steady else "no",
            f"{each.others:.1f}",
        )
    console.print(table)


def show_plan(needs: Sequence[Needs], choices: Choices, console: Console) -> None:
    """What each rate needs."""
    headers = ["requests/s", "servers", "of each", "p50 ms", "p99 ms", "a zone lost", "batch", "nodes"]
    counted = any(each.gateways is not None for each in needs)
    headers += ["gateways", "cells", "checks/s", "uncut"] if counted else ["cells"]
    table = _table(
        f"p99 {choices.p99_s * 1e3:g} ms, {choices.utilisation:.0%} of the capacity at most, "
        f"{choices.zones} zone(s)",
        (*headers, "an hour", "a million"),
    )
    for each in needs:
        if not each.servers:
            table.add_row(f"{each.rate:,.0f}", "the objective cannot be kept")
            continue
        row = [f"{each.rate:,.0f}", f"{each.servers:,}", f"{each.each:.0f}", _ms(each.p50_s), _ms(each.p99_s)]
        row += [_ms(each.p99_lost_s), f"{each.batch:.1f}", f"{each.nodes:,}"]
        if counted:
            checks = [f"{value or 0:,.0f}" for value in (each.checks, each.checks_uncut)]
            row += [f"{each.gateways or 0:,}", f"{each.cells:,}", *checks]
        else:
            row.append(f"{each.cells:,}")
        table.add_row(*row, f"{each.cost_hour:,.2f}", f"{each.cost_million:.3f}")
    console.print(table)


def show_stories(stories: Mapping[str, Story], objective_s: float, console: Console) -> None:
    """What each autoscaler made of the same load."""
    table = _table(
        f"objective {objective_s * 1e3:g} ms",
        (
            "autoscaler",
            "late %",
            "failed %",
            "p50 ms",
            "p99 ms",
            "replicas",
            "most",
            "started",
            "node hours",
            "cost",
        ),
    )
    for name, story in stories.items():
        table.add_row(
            name,
            f"{100 * story.late_share:.2f}",
            f"{100 * story.failed_share:.2f}",
            _ms(story.p50_s),
            _ms(story.p99_s),
            f"{story.replicas.mean():.1f}",
            f"{story.replicas.max():.0f}",
            f"{story.started:,}",
            f"{story.node_hours:,.1f}",
            f"{story.cost:,.2f}",
        )
    console.print(table)


def _warn(others: float, cores: int, console: Console) -> None:
    if others > MUCH * cores:
        console.print(
            f"others used up to {others:.1f} of {cores} CPUs meanwhile: these are not this server's figures; "
            "measure again on a quiet machine",
            highlight=False,
            soft_wrap=True,
        )


def _table(title: str, headers: Sequence[str]) -> Table:
    table = Table(title=title)
    for place, header in enumerate(headers):
        table.add_column(header, justify="left" if header == "autoscaler" and place == 0 else "right")
    return table


def _ms(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "∞"
    return f"{seconds * 1e3:,.1f}" if seconds < 1 else f"{seconds * 1e3:,.0f}"
