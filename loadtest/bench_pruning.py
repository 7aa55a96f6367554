"""What does pruning cost and gain? Accuracy and speed by sparsity, for one recipe.

::

    python -m loadtest.bench_pruning recipes/minilm.yaml --sparsity 0.1 0.2 0.3 0.5 --distill-steps 0 300

For each sparsity and number of distillation steps the model is pruned anew, exported, and run with ONNX
Runtime in float32 against the dense model, in turns, on batches of 32 held-out texts. Accuracy is the mean
cosine (or the share of equal labels) on held-out text, before and after distillation; products are the
multiply-adds that are left in the encoder's layers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from build_engines.check.execute import run_sequences
from build_engines.export.onnx import export_onnx
from build_engines.model_files import ModelFiles, find_model
from build_engines.prune import prune_model
from build_engines.repository.tokenizer import write_tokenizer
from build_engines.spec import ModelSpec, settle_spec
from build_engines.texts import TextSet, load_text_set
from python_backends.runners import OnnxRuntimeRunner
from tritonforge.recipe import Recipe, load_recipe

_BATCH = 32
_TOKEN_BUDGET = 4096


@dataclass(frozen=True)
class _Bench:
    """A recipe's model and text, and a folder for what is made."""

    recipe: Recipe
    files: ModelFiles
    spec: ModelSpec
    texts: TextSet
    folder: Path

    @classmethod
    def of(cls, recipe: Recipe, folder: Path) -> _Bench:
        """Find the model, read and tokenize the text."""
        files = find_model(recipe.model)
        spec = settle_spec(recipe, files)
        write_tokenizer(files, spec, folder / "tokenizer.json")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return cls(recipe, files, spec, load_text_set(recipe, spec, tokenizer), folder)

    def prune(self, sparsity: float, steps: int) -> dict[str, Any]:
        """Prune and export; the report, with the graph's path."""
        folder = self.folder / f"{sparsity}-{steps}"
        folder.mkdir()
        asked = self.recipe.prune.model_copy(
            update={"sparsity": sparsity, "distill_steps": steps, "min_accuracy": 0.0}
        )
        report = prune_model(
            self.files,
            self.spec,
            self.texts.calibration,
            self.texts.held_out,
            asked,
            folder,
            seed=self.recipe.calibration.seed,
            progress=lambda line: print(line, file=sys.stderr),  # noqa: T201 - progress, as it comes
        )
        path = folder / "model.onnx"
        export_onnx(replace(self.files, pruned=folder), self.spec, "packed", path)
        return {"sparsity": sparsity, "steps": steps, "onnx": path, **report.as_dict()}

    def speeds(self, graphs: Sequence[Path], threads: int, rounds: int) -> list[float]:
        """Texts per second of each graph: medians over rounds in which all take turns."""
        batch = self.texts.held_out[:_BATCH]
        runners = [OnnxRuntimeRunner(path, threads) for path in graphs]
        seconds: list[list[float]] = [[] for _ in runners]
        for _ in range(rounds + 1):
            for runner, taken in zip(runners, seconds, strict=True):
                start = time.perf_counter()
                run_sequences(runner, self.spec, "packed", batch, _TOKEN_BUDGET)
                taken.append(time.perf_counter() - start)
        return [len(batch) / statistics.median(taken[1:]) for taken in seconds]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; see the module's text."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        bench = _Bench.of(load_recipe(options.recipe), Path(scratch))
        dense = Path(scratch) / "dense.onnx"
        export_onnx(bench.files, bench.spec, "packed", dense)
        found = [bench.prune(*point) for point in product(options.sparsity, options.distill_steps)]
        graphs = [dense, *(point.pop("onnx") for point in found)]
        speeds = bench.speeds(graphs, options.threads, options.rounds)
    for point, speed in zip(found, speeds[1:], strict=True):
        point["texts_per_second"], point["speedup"] = speed, speed / speeds[0]
    if options.json:
        json.dump({"dense_texts_per_second": speeds[0], "points": found}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _print(found, speeds[0])


def _print(found: Sequence[dict[str, Any]], dense: float) -> None:
    """A row a point."""
    console = Console(width=110)
    table = Table(title=f"dense: {dense:.0f} texts/s")
    titles = ("sparsity", "steps", "parameters", "products", "before", "after", "texts/s", "speed-up", "s")
    for title in titles:
        table.add_column(title, justify="right")
    for point in found:
        table.add_row(
            f"{point['curve'][-1]['reached']:.3f}",
            str(point["steps"]),
            f"{point['parameters'] / 1e6:.2f} M",
            f"{point['flops_left']:.0%}",
            f"{point['accuracy_before_distillation']:.4f}",
            f"{point['accuracy']:.4f}",
            f"{point['texts_per_second']:.0f}",
            f"{point['speedup']:.2f}",
            f"{sum(point['seconds'].values()):.0f}",
        )
    console.print(table)
    longest = max((point["curve"] for point in found), key=len)
    curve = ", ".join(f"{step['reached']:.3f}: {step['accuracy']:.4f}" for step in longest)
    console.print(f"accuracy by sparsity, before distillation: {curve}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench_pruning", description=(__doc__ or "").split("::")[0]
    )
    parser.add_argument("recipe", type=Path, help="a recipe that names calibration text")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.5])
    parser.add_argument("--distill-steps", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=0, help="of ONNX Runtime; all cores if absent")
    parser.add_argument("--rounds", type=int, default=15, help="of the timing")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
