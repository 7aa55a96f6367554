"""What the gate found: checks with their figures, and the outcome of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Outcome = Literal["pass", "fail", "skipped"]


@dataclass(frozen=True)
class GateCheck:
    """One check.

    Attributes:
        name: Dotted, for instance ``accuracy.mean_cosine``.
        outcome: ``skipped`` where there is nothing to check it on; ``detail`` says why.
        figure: What was measured, None where it is no number.
        threshold: What it is held against.
        detail: For people: what was looked at, and how the figure is meant.
        worst: The worst examples, each a flat mapping that fits JSON.
        mend: What to try if it failed.
    """

    name: str
    outcome: Outcome
    figure: float | None = None
    threshold: float | None = None
    detail: str = ""
    worst: tuple[Mapping[str, Any], ...] = ()
    mend: str = ""


@dataclass(frozen=True)
class Verdict:
    """All checks of one candidate, or of the model itself.

    Attributes:
        subject: For instance ``openvino-int8``, or ``model``.
        checks: In the order in which they ran.
    """

    subject: str
    checks: tuple[GateCheck, ...] = field(default=())

    @property
    def failures(self) -> tuple[GateCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome == "fail")

    @property
    def passed(self) -> bool:
        """Whether none failed."""
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """For reports; values fit JSON."""
        return {
            "subject": self.subject,
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """Read what :meth:`as_dict` gave."""
        checks = (GateCheck(**{**check, "worst": tuple(check["worst"])}) for check in data["checks"])
        return cls(data["subject"], tuple(checks))
