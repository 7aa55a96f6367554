"""Which candidate is served, and what is said where none may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from build_engines.context import Candidate
from build_engines.gate.verdict import GateCheck, Verdict
from tritonforge.errors import GateError


def fastest(candidates: Iterable[Candidate]) -> Candidate | None:
    """The one with the most texts a second on the length mix; None of none."""
    return max(candidates, key=throughput, default=None)


def throughput(candidate: Candidate) -> float:
    """Sequences a second; a candidate that was not measured loses."""
    return candidate.speed.sequences_per_second if candidate.speed else 0.0


def describe_failure(check: GateCheck) -> str:
    """One failed check in words: name, figure, threshold, worst example."""
    text = check.name
    if check.figure is not None and check.threshold is not None:
        text += f" is {number(check.figure)}, the threshold is {number(check.threshold)}"
    if check.detail:
        text += f" ({check.detail})"
    if check.worst:
        text += f"; worst: {example(check.worst[0])}"
    return text


def example(fields: Mapping[str, Any]) -> str:
    """A worst example in words."""
    return ", ".join(
        f"{key} {number(value) if isinstance(value, float) else repr(value) if ' ' in str(value) else value}"
        for key, value in fields.items()
    )


def number(value: float) -> str:
    """A figure with as many digits as say something."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4f}" if abs(value) >= 1e-3 else f"{value:.1e}"


def refusal(verdicts: Iterable[Verdict], figures: Mapping[str, Any]) -> GateError:
    """The error for verdicts of which none passed.

    Args:
        verdicts: All that failed.
        figures: For the report.
    """
    failed = [verdict for verdict in verdicts if not verdict.passed]
    what = "; and ".join(f"{v.subject}: {describe_failure(v.failures[0])}" for v in failed)
    more = [f"{v.subject}: {', '.join(c.name for c in v.failures[1:])}" for v in failed if v.failures[1:]]
    if more:
        what += f". Failed too: {'; '.join(more)}"
    mends = dict.fromkeys(check.mend for verdict in failed for check in verdict.failures if check.mend)
    return GateError(
        f"refused: {what}",
        where="gate",
        mend=f"{'; or '.join(mends)}. `--force` publishes it all the same, and says so in the report",
        figures=figures,
    )
