"""Memory of a process with an engine in it, as runs of ever new shapes go by: where the constants come from.

::

    python -m build_engines.estimate.process_memory build/minilm/artifacts/export-*/model.onnx \
        --engine onnxruntime

prints the proportional set size after start, after importing the engine, after loading, and then after
some numbers of batches drawn from the default length mix. The file is an export for ONNX Runtime, and
``model.xml`` or an export for OpenVINO; the packed layout is expected.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import psutil

from python_backends.packing import flatten, pack, plan_runs

MARKS = (1, 10, 25, 50, 100, 200, 400, 600)
_LENGTHS, _SHARES = (8, 24, 64, 192), (0.3, 0.4, 0.2, 0.1)
_BATCH = (24, 36)  # what the dynamic batcher forms with 64 requests in flight
_TOKEN_BUDGET = 4096


def memory_steps(
    engine: str, path: Path, threads: int, vocabulary: int, batches: int
) -> Iterator[tuple[str, int, int]]:
    """Load an engine and run it.

    Args:
        engine: ``openvino`` or ``onnxruntime``.
        path: The model file.
        threads: Of the engine.
        vocabulary: Ids are drawn below it.
        batches: How many to run.

    Yields:
        What was done, runs so far, and bytes of memory.
    """
    process = psutil.Process()

    def used() -> int:
        return int(process.memory_full_info().pss)

    yield "started", 0, used()
    import_module(engine)
    runners = import_module("python_backends.runners")
    yield "imported", 0, used()
    kind = runners.OpenVinoRunner if engine == "openvino" else runners.OnnxRuntimeRunner
    runner = kind(path, threads)
    yield "loaded", 0, used()
    rng = np.random.default_rng(0)
    runs = 0
    for number in range(1, batches + 1):
        size = int(rng.integers(*_BATCH))
        lengths = rng.choice(_LENGTHS, p=_SHARES, size=size) * rng.uniform(0.85, 1.25, size=size)
        texts = [rng.integers(1, vocabulary, size=max(3, int(n)), dtype=np.int32)[None] for n in lengths]
        batch = flatten(texts)
        for run in plan_runs(batch.lengths, _TOKEN_BUDGET, ragged=runner.ragged):
            runner.run(pack(batch, run))
            runs += 1
        if number in MARKS:
            yield f"{number} batches", runs, used()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the steps."""
    parser = argparse.ArgumentParser(
        prog="python -m build_engines.estimate.process_memory", description=(__doc__ or "").split("::")[0]
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--engine", choices=("openvino", "onnxruntime"), required=True)
    parser.add_argument("--threads", type=int, default=0, help="0: all physical cores")
    parser.add_argument("--vocabulary", type=int, default=30000)
    parser.add_argument("--batches", type=int, default=MARKS[-1])
    options = parser.parse_args(arguments)
    for step, runs, used in memory_steps(
        options.engine, options.file, options.threads, options.vocabulary, options.batches
    ):
        sys.stdout.write(f"{step:<12} {runs:>6} runs {used / 1e6:>7.0f} MB\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
