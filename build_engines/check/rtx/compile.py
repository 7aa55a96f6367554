"""Compiles a graph ahead of time, for named compute capabilities, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engines.check.rtx.layers import LayerTable, parse_layers
from tritonforge.errors import EngineError

Shape = Sequence[int]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""Least, best and greatest shape of each input."""

# What TensorRT for RTX 1.7 knows; it has no data-centre Hopper or Blackwell.
CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
INSTALL = "pip install 'tritonforge[rtx]'"

_TIMEOUT = 900.0  # seconds; a BERT-large takes some 20 on one core


@dataclass(frozen=True)
class ParserError:
    """Why the parser does not take a node.

    Attributes:
        node: Its name; empty if it has none or the whole graph is meant.
        operator: Its type.
        code: TensorRT's code, such as ``UNSUPPORTED_NODE``.
        what: TensorRT's words.
    """

    node: str
    operator: str
    code: str
    what: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.operator} {self.node!r}: {self.what} ({self.code})"


@dataclass(frozen=True)
class AheadBuild:
    """One compiled engine.

    Attributes:
        capability: Such as ``SM89``.
        plan_bytes: Size of the plan; None if there is none.
        seconds: Parsing and compiling, one thread.
        table: The layers the compiler settled on.
        errors: What it said where it failed.
        warnings: What else it said.
    """

    capability: str
    plan_bytes: int | None
    seconds: float
    table: LayerTable
    errors: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class AheadResult:
    """What came of a graph.

    Attributes:
        version: Of TensorRT for RTX.
        parser_errors: Why the graph is not accepted; then nothing was built.
        builds: One a capability.
    """

    version: str
    parser_errors: tuple[ParserError, ...]
    builds: tuple[AheadBuild, ...]

    @property
    def accepted(self) -> bool:
        """Whether the graph was parsed, and compiled for every capability."""
        return not self.parser_errors and all(build.plan_bytes is not None for build in self.builds)

    def reasons(self) -> tuple[str, ...]:
        """Why it was not accepted."""
        failed = (build for build in self.builds if build.plan_bytes is None)
        unsaid = ("the compiler gave no reason",)
        return (
            *map(str, self.parser_errors),
            *(f"{build.capability}: {error}" for build in failed for error in build.errors or unsaid),
        )

    def require(self, where: str) -> None:
        """Insist on acceptance.

        Args:
            where: The graph, for the message.

        Raises:
            EngineError: With the first reasons.
        """
        if self.accepted:
            return
        reasons = self.reasons()
        more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
        raise EngineError(
            f"TensorRT for RTX {self.version} does not take the graph: {'; '.join(reasons[:3])}{more}",
            where=where,
            mend="build_engines.check.lint names the rule that each of these breaks",
        )


def compile_ahead(
    onnx_path: Path,
    profiles: Sequence[Profile],
    capabilities: Sequence[str] = ("SM80", "SM89"),
    *,
    optimization_level: int = 3,
) -> AheadResult:
    """Parse and compile a graph with TensorRT for RTX; no GPU is needed.

    Args:
        onnx_path: The graph; weight files beside it are found.
        profiles: Shapes to compile for, one or more.
        capabilities: Of :data:`CAPABILITIES`.
        optimization_level: 0 to 5, as in TensorRT.

    Returns:
        Why the graph was not accepted, or size, time and layers for each capability.

    Raises:
        EngineError: If TensorRT for RTX is not installed, does not know a capability, or its process
            died or hung.
    """
    if importlib.util.find_spec("tensorrt_rtx") is None:
        raise EngineError("TensorRT for RTX is not installed", where="tensorrt_rtx", mend=INSTALL)
    strange = [name for name in capabilities if name not in CAPABILITIES]
    if strange:
        raise EngineError(
            f"TensorRT for RTX does not compile for {', '.join(strange)}",
            where="capabilities",
            mend=f"choose among {', '.join(CAPABILITIES)}",
        )
    if not onnx_path.is_file():
        raise EngineError("there is no such file", where=str(onnx_path))
    job = {
        "onnx": str(onnx_path.resolve()),
        "profiles": [{name: [list(shape) for shape in spec] for name, spec in p.items()} for p in profiles],
        "capabilities": list(capabilities),
        "optimization_level": optimization_level,
    }
    found = _in_process(job, str(onnx_path))
    return AheadResult(
        version=found["version"],
        parser_errors=tuple(ParserError(**error) for error in found["parser_errors"]),
        builds=tuple(
            AheadBuild(
                capability=build["capability"],
                plan_bytes=build["plan_bytes"],
                seconds=build["seconds"],
                table=parse_layers(build["table"]),
                errors=tuple(build["errors"]),
                warnings=tuple(build["warnings"]),
            )
            for build in found["builds"]
        ),
    )


def _in_process(job: dict[str, object], where: str) -> dict[str, Any]:
    """Run the worker on a job."""
    with tempfile.TemporaryDirectory(prefix="tritonforge-rtx-") as folder:
        job_path, result_path = Path(folder, "job.json"), Path(folder, "result.json")
        job_path.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "build_engines.check.rtx.worker", str(job_path), str(result_path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise EngineError(f"compiling takes longer than {_TIMEOUT:.0f} s", where=where) from error
        if done.returncode or not result_path.exists():
            last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            raise EngineError(f"the compiler's process failed: {last[0]}", where=where)
        found: dict[str, Any] = json.loads(result_path.read_text(encoding="utf-8"))
        return found
