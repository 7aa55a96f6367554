"""Lints, narrows, compiles and audits graphs: ``python -m build_engines.check.rtx MODEL.onnx ...``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from build_engines.check.lint import LintGraph, lint, quantized_linear_layers
from build_engines.check.rtx.audit import audit
from build_engines.check.rtx.compile import Profile, compile_ahead
from build_engines.compress.half import to_half
from tritonforge.errors import TritonForgeError

_PACKED = ("input_ids=1:1024:4096", "cu_seqlens=2:33:65", "max_seqlen=1:64:512")


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge each graph.

    Returns:
        0 if all are clean, compiled and audited well; 1 if not; 2 for bad arguments.
    """
    parser = argparse.ArgumentParser(prog="python -m build_engines.check.rtx", description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--precision", choices=("as-is", "fp16", "bf16"), default="as-is")
    parser.add_argument("--capability", nargs="+", default=["SM80", "SM89"])
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=list(_PACKED),
        metavar="INPUT=LEAST:BEST:MOST",
        help="as 8x64 per shape",
    )
    options = parser.parse_args(arguments)
    try:
        profile = dict(map(_shapes, options.shapes))
    except ValueError as error:
        parser.error(f"--shapes: {error}")
    good = True
    for path in options.models:
        try:
            lines = list(_judge(path, options.precision, profile, options.capability))
        except TritonForgeError as error:
            lines = [(False, str(error))]
        good &= all(fine for fine, _ in lines)
        sys.stdout.write("\n".join([f"{path}:", *(f"  {line}" for _, line in lines)]) + "\n")
    return 0 if good else 1


def _shapes(text: str) -> tuple[str, tuple[list[int], list[int], list[int]]]:
    """One ``INPUT=LEAST:BEST:MOST``, each shape as numbers with x between."""
    name, _, shapes = text.partition("=")
    least, best, most = ([int(size) for size in shape.split("x")] for shape in shapes.split(":"))
    return name, (least, best, most)


def _judge(
    path: Path, precision: str, profile: Profile, capabilities: Sequence[str]
) -> Iterator[tuple[bool, str]]:
    """Lines on one graph, and whether each is good news."""
    with tempfile.TemporaryDirectory(prefix="tritonforge-rtx-") as folder:
        if precision in ("fp16", "bf16"):
            report = to_half(path, Path(folder, path.name), "fp16" if precision == "fp16" else "bf16")
            path = Path(folder, path.name)
            clamped = ", ".join(one.name for one in report.clamped()) or "none"
            yield (
                True,
                (
                    f"{precision}: {report.narrowed} nodes narrowed, {len(report.wide)} in float32, "
                    f"{report.casts} casts, constants clamped: {clamped}"
                ),
            )
        findings = lint(path, profiles=[profile])
        yield from ((False, str(finding)) for finding in findings)
        if not findings:
            yield True, "lint: nothing found"
        result = compile_ahead(path, [profile], capabilities)
        yield from ((False, reason) for reason in result.reasons())
        graph = LintGraph.of(path)
        linear, attentions = quantized_linear_layers(graph), graph.attentions
        for build in result.builds:
            if build.plan_bytes is None:
                continue
            found = audit(build.table, linear, attentions)
            yield (
                found.verdict == "pass",
                f"{build.capability}: {build.plan_bytes / 1e6:.1f} MB in {build.seconds:.1f} s; audit "
                f"{found.verdict}: INT8 GEMMs {len(found.int8)} of {len(linear)}, fused attention "
                f"{len(found.fused)} of {len(attentions)}, q/k/v merged {len(found.merged)} of "
                f"{len(found.merged) + len(found.not_merged)}",
            )
            yield from ((False, f"  {problem}") for problem in found.problems())


if __name__ == "__main__":
    sys.exit(main())
