"""How good is a quantized graph on text that it was not calibrated on? Cosine, neighbours, human judgement.

::

    python -m loadtest.bench_int8 recipes/minilm.yaml CANDIDATE.onnx ...

Every candidate is an ONNX file with the inputs of the recipe's packed export; without any, the newest
calibrated graph of ``build/NAME/artifacts`` is taken. The reference is the float32 export there
(``tritonforge build RECIPE --precision int8`` makes both). The text is English and ships in packages:
gensim's Lee test corpus and film reviews, docstrings of Python's standard library, and search queries.
"""

from __future__ import annotations

import argparse
import email.message
import http.client
import inspect
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from build_engines.check.compare import cosines
from build_engines.check.execute import run_sequences
from build_engines.check.samples import mixed_lengths
from build_engines.model_files import find_model
from build_engines.spec import ModelSpec, settle_spec
from build_engines.texts import tokenize
from python_backends.runners import OnnxRuntimeRunner, OpenVinoRunner, Runner
from tritonforge.recipe import Recipe, load_recipe

Rows = NDArray[np.float32]

QUERIES = """
how to reset my password
capital of france
best pizza near me
weather tomorrow
hello
yes
2+2
ok thanks
python list comprehension
cheap flights to tokyo
what is machine learning
who won the world cup 2018
symptoms of flu
convert usd to eur
how tall is mount everest
return policy
cancel my subscription
I want a refund!
is this product vegan?
opening hours
running shoes size 42
error 404
sql join example
define entropy
covid vaccine side effects
car insurance quote
learn guitar chords
good morning
cats
recipe for banana bread
move file linux command
buy bitcoin
new york times crossword
meaning of life
docker compose restart
tax deadline
translate hello to spanish
nearest hospital
""".strip().splitlines()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one JSON object a candidate and engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("candidates", type=Path, nargs="*")
    parser.add_argument("--build", type=Path, default=Path("build"), help="folder of the builds")
    parser.add_argument("--engines", default="onnxruntime,openvino")
    parser.add_argument("--threads", type=int, default=0, help="of each engine; 0: all cores")
    options = parser.parse_args(arguments)
    recipe = load_recipe(options.recipe)
    artifacts = options.build / recipe.name / "artifacts"
    reference = _newest(artifacts, "export-*")
    candidates = options.candidates or [_newest(artifacts, "quantize-int8-*")]
    files = find_model(recipe.model)
    spec = settle_spec(recipe, files)
    bench = Bench(recipe, spec, Tokenizer.from_file(str(files.folder / "tokenizer.json")), reference)
    for engine in options.engines.split(","):
        for candidate in candidates:
            figures = bench.compare(candidate, engine, options.threads)
            # A line of JSON as soon as it is known.
            print(json.dumps({"model": candidate.name, "engine": engine, **figures}), flush=True)  # noqa: T201
    return 0


class Bench:
    """Reference answers in float32, once, and candidates against them.

    Args:
        recipe: Length mix and token budget.
        spec: The model.
        tokenizer: Of the model.
        reference: The float32 export, packed.
    """

    def __init__(self, recipe: Recipe, spec: ModelSpec, tokenizer: Tokenizer, reference: Path) -> None:
        """Read the texts; the reference is run by each engine for itself."""
        self._recipe, self._spec, self._reference = recipe, spec, reference
        tokenizer.no_padding()
        sources = held_out_sources()
        self._held = {
            name: tokenize(tokenizer, windows(texts, recipe, spec, 321), spec.max_length)
            for name, texts in sources.items()
        }
        self._held["queries"] = tokenize(tokenizer, QUERIES, spec.max_length)
        self._lee = tokenize(tokenizer, sources["lee"], spec.max_length)
        self._human = np.loadtxt(_gensim("similarities0-1.txt"))

    def compare(self, candidate: Path, engine: str, threads: int) -> dict[str, Any]:
        """Figures of one candidate in one engine, ``onnxruntime`` or ``openvino``."""
        exact = _load(self._reference, engine, threads)
        small = _load(candidate, engine, threads)
        pairs = {name: (self._rows(exact, ids), self._rows(small, ids)) for name, ids in self._held.items()}
        every = np.concatenate([cosines(found, wanted) for wanted, found in pairs.values()])
        lee = {name: human_correlation(self._rows(r, self._lee), self._human) for name, r in
               (("fp32", exact), ("quantized", small))}  # fmt: skip
        wanted, found = (np.concatenate([pair[i] for pair in pairs.values()])[:1000] for i in (0, 1))
        return {
            "texts": len(every),
            "mean_cosine": round(float(every.mean()), 5),
            "min_cosine": round(float(every.min()), 5),
            "by_source": {
                name: [round(float(f(cosines(b, a))), 5) for f in (np.mean, np.min)]
                for name, (a, b) in pairs.items()
            },
            "overlap_top10": round(overlap(found, wanted), 4),
            "lee_pearson": {name: round(value, 4) for name, value in lee.items()},
            "seconds_fp32_over_quantized": round(self._speedup(exact, small), 2),
        }

    def _rows(self, runner: Runner, ids: Sequence[NDArray[np.int32]]) -> Rows:
        return run_sequences(runner, self._spec, "packed", ids, self._recipe.batching.token_budget)

    def _speedup(self, exact: Runner, small: Runner) -> float:
        """Ratio of the median times of the same 64 texts, taken in turns."""
        ids = [sequence for part in self._held.values() for sequence in part[:13]]
        times: dict[Runner, list[float]] = {exact: [], small: []}
        for _ in range(7):
            for runner, taken in times.items():
                start = time.perf_counter()
                self._rows(runner, ids)
                taken.append(time.perf_counter() - start)
        return statistics.median(times[exact]) / statistics.median(times[small])


def held_out_sources() -> dict[str, list[str]]:
    """English texts by where they come from."""
    docs = []
    for module in (email.message, http.client, inspect, json, np, np.linalg, argparse, statistics):
        for _, member in sorted(vars(module).items()):
            text = " ".join((inspect.getdoc(member) or "").split()) if callable(member) else ""
            if len(text) > 150:
                docs.append(text)
    reviews = _gensim("pang_lee_polarity.cor").read_text(encoding="latin-1").splitlines()
    return {
        "lee": _gensim("lee.cor").read_text(encoding="latin-1").splitlines(),
        "reviews": [line.partition(" ")[2] for line in reviews],
        "docstrings": list(dict.fromkeys(docs)),
    }


def windows(texts: Sequence[str], recipe: Recipe, spec: ModelSpec, count: int) -> list[str]:
    """Runs of words, about as long as the length mix asks."""
    rng = np.random.default_rng(5)
    words = [text.split() for text in texts]
    found = []
    for length in mixed_lengths(recipe.length_mix, count, spec.max_length, seed=5):
        size = max(1, round((length - 2) / 1.35))
        text = words[int(rng.integers(len(words)))]
        start = int(rng.integers(0, max(1, len(text) - size + 1)))
        found.append(" ".join(text[start : start + size]))
    return found


def overlap(found: Rows, reference: Rows, k: int = 10) -> float:
    """Share of equal neighbours among the k nearest of each row, by dot product."""

    def nearest(rows: Rows) -> NDArray[np.int64]:
        similar = rows @ rows.T
        np.fill_diagonal(similar, -np.inf)
        return np.argsort(-similar, axis=1, kind="stable")[:, :k]

    same = (nearest(found)[:, :, None] == nearest(reference)[:, None, :]).any(axis=2)
    return float(same.mean())


def human_correlation(rows: Rows, human: NDArray[np.float64]) -> float:
    """Pearson correlation of the cosines of all pairs with the human ratings (Lee et al. 2005)."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    upper = np.triu_indices(len(unit), 1)
    return float(np.corrcoef((unit @ unit.T)[upper], human[upper])[0, 1])


def _load(path: Path, engine: str, threads: int) -> Runner:
    return OpenVinoRunner(path, threads) if engine == "openvino" else OnnxRuntimeRunner(path, threads)


def _newest(artifacts: Path, pattern: str) -> Path:
    found = sorted(artifacts.glob(f"{pattern}/model.onnx"), key=lambda path: path.stat().st_mtime)
    if not found:
        sys.exit(f"no {pattern} in {artifacts}; run: tritonforge build RECIPE --precision int8")
    return found[-1]


def _gensim(name: str) -> Path:
    from gensim.test.utils import datapath

    return Path(datapath(name))


if __name__ == "__main__":
    sys.exit(main())
