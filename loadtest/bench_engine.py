"""How much of the machine does the engine use, and what would make it faster? OpenVINO alone, one process.

::

    python -m loadtest.bench_engine --model minilm --batches 8 32 64

Batches of fresh texts, so that hardly a shape occurs twice, as under real load. The ways take turns in random
order, each with a compiled model of its own: a shared one would know shapes that another way has run.

- ``as served``: windows (:mod:`python_backends.windows`);
- ``packed``: without them, as a graph of another exporter would be run: attention gathers to a rectangle;
- ``rows of 32`` and ``of 128``: how many slots a usual window has (served: 64);
- ``256 slots`` and ``2048 slots``: how many a run has (served: 256 a thread, and 512 at least);
- ``same shapes``: the same batches again and again, which no server can have: the bound of what shapes cost.

The rates of the machine are those of one matrix product of the model's feed-forward shape, in OpenVINO too.
GFLOP/s of the model count its linear layers only. CPU time bears with a busy machine better than texts/s.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops
from rich.console import Console
from rich.table import Table

from loadtest.corpus import DEFAULT_MIX, LengthMix, make_texts
from loadtest.errors import LoadTestError
from python_backends.packing import TokenBatch, flatten, pack, plan_runs
from python_backends.runners import OpenVinoRunner
from python_backends.windows import SLOTS, WINDOW, WindowRun, plan_windows
from tritonforge.server.repository import MANIFEST

Way = Callable[[TokenBatch], None]
_BUDGET = 16384
_ROWS, _WIDTH, _INNER = 4096, 384, 1536


class Engine:
    """One model that computes batches in several ways.

    Args:
        folder: Version folder with ``model.xml``.
        precision: Of the linear layers, as the model's config says.
        threads: Of one run.
    """

    def __init__(self, folder: Path, precision: str, threads: int) -> None:
        """Read the model; each way compiles it anew."""
        self._arguments = folder / "model.xml", threads, precision
        self.flops_per_token = _linear_flops(ov.Core().read_model(str(self._arguments[0])))

    def ways(self) -> dict[str, Way]:
        """The ways to compute a batch."""
        return {
            "as served": _way(OpenVinoRunner(*self._arguments)),
            "packed": _way(OpenVinoRunner(*self._arguments, windows=False)),
            "rows of 32": _way(_Planned(*self._arguments, window=32)),
            "rows of 128": _way(_Planned(*self._arguments, window=128)),
            "256 slots": _way(_Planned(*self._arguments, slots=256)),
            "2048 slots": _way(_Planned(*self._arguments, slots=2048)),
            "same shapes": _way(OpenVinoRunner(*self._arguments)),
        }


class _Planned(OpenVinoRunner):
    """Windows of another size than is served."""

    def __init__(
        self, path: Path, threads: int, precision: str, *, slots: int = SLOTS, window: int = WINDOW
    ) -> None:
        super().__init__(path, threads, precision)
        self._size = slots, window

    def _plan(self, lengths: Sequence[int]) -> list[WindowRun]:
        return plan_windows(lengths, *self._size)


def _way(runner: OpenVinoRunner) -> Way:
    def way(batch: TokenBatch) -> None:
        for run in plan_runs(batch.lengths, _BUDGET, ragged=runner.ragged):
            runner.run(pack(batch, run))

    return way


def _linear_flops(model: ov.Model) -> int:
    """Operations of the linear layers for one token: two for each weight."""
    total = 0
    for node in model.get_ops():
        if node.get_type_name() != "MatMul":
            continue
        inner, outer = node.input(0).get_partial_shape()[-1], node.output(0).get_partial_shape()[-1]
        tokens_first = node.output(0).get_partial_shape().rank.get_length() <= 3
        if inner.is_static and outer.is_static and tokens_first:
            total += 2 * inner.get_length() * outer.get_length()
    return total


def machine_rate(threads: int, *, int8: bool, seconds: float = 2.0) -> float:
    """Operations a second of one matrix product [4096, 384] x [384, 1536], in OpenVINO.

    Args:
        threads: To compute with.
        int8: Both sides quantized to INT8, float32 otherwise.
        seconds: How long to measure.
    """
    rng = np.random.default_rng(0)
    parameter = ops.parameter([-1, _WIDTH], np.float32)
    weights = ops.constant(rng.standard_normal((_WIDTH, _INNER), dtype=np.float32))
    left, right = (_quantized(parameter), _quantized(weights)) if int8 else (parameter, weights)
    model = ov.Model([ops.matmul(left, right, False, False)], [parameter])
    properties = {
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    request = ov.Core().compile_model(model, "CPU", properties).create_infer_request()
    rows = rng.standard_normal((_ROWS, _WIDTH), dtype=np.float32)
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        request.infer([rows], share_inputs=True, share_outputs=True)
        best = min(best, time.perf_counter() - start)
    return 2 * _ROWS * _WIDTH * _INNER / best


def _quantized(node: Any) -> Any:
    low, high = (ops.constant(np.float32(bound)) for bound in (-4.0, 4.0 * 127 / 128))
    return ops.fake_quantize(node, low, high, low, high, 256)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; see the module's text."""
    config = _config(options.repository, options.model)
    engine = Engine(config["folder"], config["precision"], options.threads)
    tokens = _token_ids(options.repository, options.model, options.mix)
    result: dict[str, Any] = {
        "model": options.model,
        "precision": config["precision"],
        "threads": options.threads,
        "mix": options.mix,
        "machine_gflops": {
            "fp32": machine_rate(options.threads, int8=False) / 1e9,
            "int8": machine_rate(options.threads, int8=True) / 1e9,
        },
        "batches": {},
    }
    for size in options.batches:
        result["batches"][size] = _measure_batches(engine, tokens, size, options)
    return result


def _measure_batches(
    engine: Engine, tokens: Sequence[NDArray[np.int32]], size: int, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    ways = engine.ways()
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    count = max(4, options.texts // size)
    for number in range(options.rounds + 1):
        order = list(ways)
        random.Random(number).shuffle(order)
        for name in order:
            # The same batches for all ways of a round, but for the one whose point is that they recur.
            rng = random.Random(0 if name == "same shapes" else number)
            batches = [flatten(rng.sample(tokens, size)) for _ in range(count)]
            if name == "same shapes":
                for batch in batches:
                    ways[name](batch)
            wall, cpu = time.perf_counter(), time.process_time()
            for batch in batches:
                ways[name](batch)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if number:  # the first round warms up
                texts, work = size * count, sum(int(batch.lengths.sum()) for batch in batches)
                figures[name].append((texts / wall, cpu / texts * 1e3, engine.flops_per_token * work / wall))
    return {
        name: {
            "texts_per_second": statistics.median(row[0] for row in rows),
            "cpu_ms_per_text": statistics.median(row[1] for row in rows),
            "gflops": statistics.median(row[2] for row in rows) / 1e9,
            "to_served": statistics.median(
                row[0] / base[0] for row, base in zip(rows, figures["as served"], strict=True)
            ),
        }
        for name, rows in figures.items()
    }


def _config(repository: Path, model: str) -> dict[str, Any]:
    """Folder and precision of a published OpenVINO engine."""
    place = repository / model / MANIFEST
    try:
        manifest = json.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadTestError(
            f"cannot be read: {error.strerror}", where=str(place), mend="tritonforge build RECIPE"
        ) from error
    facts = manifest["build"]
    if facts["engine"] != "openvino" or facts["layout"] != "packed":
        raise LoadTestError(
            f"is a {facts['layout']} {facts['engine']} engine; packed OpenVINO is what this looks into",
            where=model,
            mend="tritonforge build RECIPE --engine openvino",
        )
    folder = repository / f"{model}_engine" / str(manifest["version"])
    return {"folder": folder, "precision": facts["precision"]}


def _token_ids(repository: Path, model: str, mix: str) -> list[NDArray[np.int32]]:
    from tokenizers import Tokenizer

    path = next(
        path
        for part in ("tokenizer", "engine")
        for path in repository.glob(f"{model}_{part}/*/tokenizer.json")
    )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    texts = make_texts(4096, LengthMix.parse(mix))
    return [np.array([encoding.ids], np.int32) for encoding in tokenizer.encode_batch(texts)]


def _show(result: dict[str, Any]) -> None:
    console = Console()
    rates = result["machine_gflops"]
    console.print(
        f"{result['model']}: openvino {result['precision']}, {result['threads']} thread(s); this machine's "
        f"matrix products: fp32 {rates['fp32']:.0f}, INT8 {rates['int8']:.0f} GFLOP/s",
        highlight=False,
    )
    table = Table()
    for header in ("batch", "way", "texts/s", "to served", "CPU ms/text", "GFLOP/s"):
        table.add_column(header, justify="left" if header == "way" else "right")
    for size, ways in result["batches"].items():
        for name, row in ways.items():
            table.add_row(
                str(size),
                name,
                f"{row['texts_per_second']:.0f}",
                f"{row['to_served']:.2f}",
                f"{row['cpu_ms_per_text']:.2f}",
                f"{row['gflops']:.0f}",
            )
        table.add_section()
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench_engine", description=(__doc__ or "").split("::")[0]
    )
    parser.add_argument("--model", default="minilm", help="the ensemble")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32, 64], help="texts in a batch")
    parser.add_argument("--texts", type=int, default=256, help="texts in a turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each way")
    parser.add_argument("--threads", type=int, default=2, help="of the engine")
    parser.add_argument("--mix", default=DEFAULT_MIX, help="lengths in tokens, and their weights")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    result = measure(options)
    if options.json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        _show(result)


if __name__ == "__main__":
    main()
