"""The process that holds TensorRT for RTX: reads a job as JSON, writes what came of it as JSON.

Run as ``python -m build_engines.check.rtx.worker JOB RESULT``. A builder leaves half a gigabyte behind,
a compiler that runs out of memory takes its process along, and TensorRT keeps the first logger of a
process for good: all three are harmless in a process that does one job. Polygraphy's loaders are not
used here: they are switched to RTX by an environment variable and log through a logger of their own,
while the layer table only comes through the logger.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

Shapes = tuple[list[int], list[int], list[int]]

_TABLE = "Layers:"


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Parse once a capability, and compile.

    Args:
        job: ``onnx`` (path), ``profiles`` (list of input -> min, opt, max), ``capabilities`` (names such
            as ``SM89``) and ``optimization_level``.

    Returns:
        ``version``, ``parser_errors`` and ``builds``, as :mod:`build_engines.check.rtx.compile` reads them.
    """
    trt = importlib.import_module("tensorrt_rtx")
    logger = _make_logger(trt)
    result: dict[str, Any] = {"version": trt.__version__, "parser_errors": [], "builds": []}
    for capability in job["capabilities"]:
        logger.start()
        began = time.perf_counter()
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(job["onnx"]):
            errors = (parser.get_error(i) for i in range(parser.num_errors))
            result["parser_errors"] = [
                {
                    "node": e.node_name(),
                    "operator": e.node_operator(),
                    "code": e.code().name,
                    "what": e.desc(),
                }
                for e in errors
            ]
            return result
        config, refused = _configure(trt, builder, capability, job)
        plan = None if refused else builder.build_serialized_network(network, config)
        result["builds"].append(
            {
                "capability": capability,
                "plan_bytes": None if plan is None else plan.nbytes,
                "seconds": time.perf_counter() - began,
                "table": logger.table,
                "errors": [*refused, *logger.errors],
                "warnings": logger.warnings,
            }
        )
    return result


def _make_logger(trt: Any) -> Any:
    """A logger that keeps the layer table, errors and warnings."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the module is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.start()

        def start(self) -> None:
            """Forget what was kept."""
            self.table = ""
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT, from any of its threads; an exception here would end the process."""
            with contextlib.suppress(Exception):
                if message.lstrip().startswith(_TABLE):
                    self.table = message
                elif severity <= trt.ILogger.ERROR:
                    self.errors.append(message)
                elif severity == trt.ILogger.WARNING:
                    self.warnings.append(message)

    return Logger()


def _configure(trt: Any, builder: Any, capability: str, job: dict[str, Any]) -> tuple[Any, list[str]]:
    """Builder configuration for one compute capability; and why a profile was refused."""
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = job["optimization_level"]
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    refused = []
    for number, shapes in enumerate(job["profiles"]):
        profile = builder.create_optimization_profile()
        try:
            for name, (least, best, most) in shapes.items():
                profile.set_shape(name, least, best, most)
            accepted = config.add_optimization_profile(profile) >= 0
        except (RuntimeError, ValueError, TypeError) as error:
            refused.append(f"profile {number}: {error}")
            continue
        if not accepted:
            refused.append(f"profile {number} is refused: {shapes}")
    return config, refused


def main() -> None:
    """Read the job, run it, write the result."""
    job_path, result_path = map(Path, sys.argv[1:3])
    result = run(json.loads(job_path.read_text(encoding="utf-8")))
    result_path.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
