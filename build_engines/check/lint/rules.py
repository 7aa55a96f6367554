"""What a finding is, and the list of all rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from build_engines.check.lint.graph import LintGraph

Severity = Literal["error", "warning"]
Shape = Sequence[int]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]


@dataclass(frozen=True)
class Finding:
    """Something that TensorRT would refuse, or that would be slow or wrong with it.

    Attributes:
        rule: Name of the rule.
        severity: ``error``: refused, or a wrong result; ``warning``: it builds, but loses speed or
            accuracy for nothing.
        node: Name of the node (operator and position where it has none), input or profile.
        what: What is wrong.
        mend: What to do.
    """

    rule: str
    severity: Severity
    node: str
    what: str
    mend: str

    def __str__(self) -> str:
        """In one line."""
        return f"{self.severity} [{self.rule}] {self.node}: {self.what}; {self.mend}"


@dataclass(frozen=True)
class Deployment:
    """What the graph will be built and served with; rules skip what is not given.

    Attributes:
        profiles: Least, best and greatest shape of each input, one mapping a profile.
        triton_inputs: Triton's type of each input, such as ``TYPE_INT32``.
        max_batch_size: Of the model in Triton.
        profile_indices: ``instance_group.profile``, decimal strings.
    """

    profiles: Sequence[Profile] | None = None
    triton_inputs: Mapping[str, str] | None = None
    max_batch_size: int | None = None
    profile_indices: Sequence[str] | None = None


@dataclass(frozen=True)
class Case:
    """A graph and how it is to be used: what a rule looks at."""

    graph: LintGraph
    deployment: Deployment = field(default_factory=Deployment)


Rule = Callable[[Case], Iterator[Finding]]
Check = Callable[[Case], Iterator[tuple[str, str]]]

RULES: dict[str, Rule] = {}
"""Every rule by name, in the order they run."""


def rule(name: str, severity: Severity, mend: str) -> Callable[[Check], Check]:
    """Register a function that yields (node, what is wrong) as a rule.

    Args:
        name: Of the rule, in findings.
        severity: Of its findings.
        mend: What to do about each.
    """

    def register(check: Check) -> Check:
        def run(case: Case) -> Iterator[Finding]:
            return (Finding(name, severity, node, what, mend) for node, what in check(case))

        RULES[name] = run
        return check

    return register
