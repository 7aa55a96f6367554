"""Which candidate is served, and what is said where none may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from build_engines.context import Candidate
from build_engines.gate.verdict import Verdict
from build_engines.gate.wording import describe_failure
from tritonforge.errors import GateError


def fastest(candidates: Iterable[Candidate]) -> Candidate | None:
    """The one with the most texts a second on the length mix; None of none."""
    return max(candidates, key=throughput, default=None)


def throughput(candidate: Candidate) -> float:
    """Sequences a second; a candidate that was not measured loses."""
    return candidate.speed.sequences_per_second if candidate.speed else 0.0


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
