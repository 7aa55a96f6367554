"""Finds in an ONNX graph what TensorRT would refuse, or would run slower or less exactly than it could.

Every rule is decidable without a GPU and without TensorRT. What a rule calls refused is held against
the parser of TensorRT for RTX in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx import ModelProto

# Each module registers its rules.
from build_engines.check.lint import deployment, operators, placement, quantizers
from build_engines.check.lint.graph import Attention, LintGraph, quantized_linear_layers
from build_engines.check.lint.rules import RULES, Case, Deployment, Finding, Profile
from tritonforge.errors import EngineError

__all__ = [
    "RULES",
    "Attention",
    "Finding",
    "LintGraph",
    "Profile",
    "deployment",
    "lint",
    "operators",
    "placement",
    "quantized_linear_layers",
    "quantizers",
    "require_clean",
]


def lint(
    model: ModelProto | Path,
    *,
    profiles: Sequence[Profile] | None = None,
    triton_inputs: Mapping[str, str] | None = None,
    max_batch_size: int | None = None,
    profile_indices: Sequence[str] | None = None,
) -> tuple[Finding, ...]:
    """Apply every rule.

    Args:
        model: The graph, or its file.
        profiles: Least, best and greatest shape of each input, one mapping a profile.
        triton_inputs: Triton's type of each input, such as ``TYPE_INT32``.
        max_batch_size: As Triton is told.
        profile_indices: ``instance_group.profile``, as Triton is told.

    Returns:
        What was found, errors first.

    Raises:
        EngineError: If the file is no ONNX model.
    """
    told = Deployment(profiles, triton_inputs, max_batch_size, profile_indices)
    case = Case(LintGraph.of(model), told)
    found = [finding for rule in RULES.values() for finding in rule(case)]
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))


def require_clean(findings: Sequence[Finding], where: str) -> None:
    """Insist that there is no error; warnings pass.

    Args:
        findings: As :func:`lint` gives them.
        where: The graph, for the message.

    Raises:
        EngineError: With the first errors.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
        told = "; ".join(f"{one.node}: {one.what} [{one.rule}]" for one in errors[:3])
        raise EngineError(f"not fit for TensorRT: {told}{more}", where=where, mend=errors[0].mend)
