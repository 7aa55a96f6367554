"""Labelled data that the recipe names, and the task's own metric on it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from build_engines.check.compare import Rows
from build_engines.gate.accuracy import decisions, shorten
from build_engines.gate.verdict import GateCheck
from build_engines.spec import ModelSpec
from build_engines.texts import resolve_source, tokenize
from tritonforge.errors import RecipeError

Int32Array = NDArray[np.int32]

_MOST = 1000  # examples; the reference runs each text of theirs alone
_WORST = 5
_WHERE = "gate.labelled"
_FORMAT = 'a line each: {"text": …, "label": …}, or {"text": …, "text_pair": …, "score": …}'


@dataclass(frozen=True)
class Labelled:
    """Labelled examples.

    Attributes:
        kind: ``labels``, or ``pairs`` of texts with a score of how alike they are.
        texts: The texts; of pairs first all ``text``, then all ``text_pair``.
        sequences: The distinct ones among them, tokenized, int32 [n] each.
        places: Which of ``sequences`` each text is, int64 [texts].
        truth: Labels as bool [texts, labels] in the order of ``names``, or scores as float64 [pairs].
        names: Names of the labels.
    """

    kind: Literal["labels", "pairs"]
    texts: list[str]
    sequences: list[Int32Array]
    places: NDArray[np.int64]
    truth: NDArray[Any]
    names: tuple[str, ...]


def load_labelled(source: str, spec: ModelSpec, tokenizer: Tokenizer, seed: int) -> Labelled:
    """Read and tokenize a ``.jsonl`` of labelled examples; at most 1,000 are taken, drawn with a seed.

    Args:
        source: As ``gate.labelled`` says.
        spec: Labels must be among the model's own (classification).
        tokenizer: As it is served.
        seed: Of the draw.

    Raises:
        RecipeError: If the file cannot be read as what it should be.
    """
    path = resolve_source(source, _WHERE)
    lines = _read(path)
    if len(lines) > _MOST:
        chosen = np.sort(np.random.default_rng(seed).choice(len(lines), _MOST, replace=False))
        lines = [lines[i] for i in chosen]
    kinds = {"pairs" if "text_pair" in entry else "labels" for _, entry in lines}
    if len(kinds) != 1:
        raise _error(path, "mixes pairs with texts that have labels")
    kind: Literal["labels", "pairs"] = "pairs" if kinds == {"pairs"} else "labels"
    names: tuple[str, ...] = ()
    truth: NDArray[Any]
    if kind == "pairs":
        if spec.task != "embedding":
            raise _error(path, "holds pairs with a score, which are for embeddings, and this is a classifier")
        texts = [_text(path, line, key) for key in ("text", "text_pair") for line in lines]
        truth = np.array([_score(path, line) for line in lines])
    else:
        texts = [_text(path, line, "text") for line in lines]
        truth, names = _truth(path, lines, spec)
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    sequences = tokenize(tokenizer, list(places), spec.max_length)
    return Labelled(kind, texts, sequences, np.array([places[text] for text in texts]), truth, names)


def _read(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file, each with the number of its line."""
    found = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    entry = json.loads(line)
                    if not isinstance(entry, dict):
                        raise _error(path, "is no object", number)
                    found.append((number, entry))
    except (OSError, ValueError) as error:
        raise _error(path, f"cannot be read: {error}") from error
    if not found:
        raise _error(path, "is empty")
    return found


def _text(path: Path, line: tuple[int, dict[str, Any]], key: str) -> str:
    """A text of an example."""
    number, entry = line
    text = entry.get(key)
    if not isinstance(text, str) or not text.strip():
        raise _error(path, f"has no {key!r}", number)
    return text


def _score(path: Path, line: tuple[int, dict[str, Any]]) -> float:
    """The score of a pair."""
    number, entry = line
    score = entry.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not np.isfinite(score):
        raise _error(path, "has no number as 'score'", number)
    return float(score)


def _truth(
    path: Path, lines: Sequence[tuple[int, dict[str, Any]]], spec: ModelSpec
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Labels as a matrix, by name or (of a classifier) by number; a list of them where many hold."""
    given: list[list[str]] = []
    for number, entry in lines:
        value = entry.get("label")
        labels = value if isinstance(value, list) else [value]
        known = spec.labels
        named = [known[v] if isinstance(v, int) and 0 <= v < len(known) else str(v) for v in labels]
        unknown = [name for name in named if known and name not in known]
        if value is None or unknown:
            raise _error(path, f"label {value!r} is none of {', '.join(known)}", number)
        given.append(named)
    names = spec.labels or tuple(sorted({name for row in given for name in row}))
    truth = np.array([[name in row for name in names] for row in given])
    return truth, names


def _error(path: Path, what: str, line: int | None = None) -> RecipeError:
    """An error that names the place."""
    where = f"{_WHERE}: {path}" + (f", line {line}" if line else "")
    return RecipeError(what, where=where, mend=_FORMAT)


def metrics(data: Labelled, rows: Rows, spec: ModelSpec) -> dict[str, float]:
    """The task's own metrics.

    Pairs: Spearman's and Pearson's correlation of cosine with score. Labels of a classifier: accuracy and
    macro F1. Labels of embeddings: the same for the label of the nearest other text.

    Args:
        data: The examples.
        rows: An engine's rows for ``data.sequences``, float32 [sequences, width].
        spec: Task and activation.
    """
    rows = rows[data.places]
    if data.kind == "pairs":
        from scipy.stats import pearsonr, spearmanr

        cosine = _pair_cosines(rows)
        return {
            "spearman": float(spearmanr(cosine, data.truth).statistic),
            "pearson": float(pearsonr(cosine, data.truth).statistic),
        }
    from sklearn.metrics import accuracy_score, f1_score

    found = _predicted(data, rows, spec)
    return {
        "accuracy": float(accuracy_score(data.truth, found)),
        "f1": float(f1_score(data.truth, found, average="macro", zero_division=np.nan)),
    }


def metric_checks(
    data: Labelled, rows: Rows, reference: Rows, spec: ModelSpec, most: float, mend: str
) -> tuple[GateCheck, ...]:
    """Hold an engine's metrics against those of the dense model in float32.

    Args:
        data: The examples.
        rows: The engine's rows for ``data.sequences``, float32 [sequences, width].
        reference: The dense model's.
        spec: Task and activation.
        most: Most that each metric may be below the reference's.
        mend: What to try.
    """
    mine, theirs = metrics(data, rows, spec), metrics(data, reference, spec)
    rows, reference = rows[data.places], reference[data.places]
    worst = _worst_pairs(data, rows, reference) if data.kind == "pairs" else ()
    worst = worst or _now_wrong(data, rows, reference, spec)
    return tuple(
        GateCheck(
            f"metric.{name}",
            "pass" if figure >= theirs[name] - most else "fail",
            figure,
            theirs[name] - most,
            f"{len(data.truth)} labelled examples; the dense model in float32 reaches {theirs[name]:.4f}",
            worst,
            mend,
        )
        for name, figure in mine.items()
    )


def _pair_cosines(rows: Rows) -> NDArray[np.float64]:
    """Cosine of each pair, float64 [pairs]."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    first, second = np.split(unit.astype(np.float64), 2)
    cosine: NDArray[np.float64] = (first * second).sum(axis=1)
    return cosine


def _predicted(data: Labelled, rows: Rows, spec: ModelSpec) -> NDArray[np.bool_]:
    """Labels that the model gives, bool [texts, labels]."""
    if spec.task == "classification":
        return decisions(rows, spec)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    similarities = unit @ unit.T
    np.fill_diagonal(similarities, -np.inf)
    nearest: NDArray[np.bool_] = data.truth[similarities.argmax(axis=1)]
    return nearest


def _worst_pairs(data: Labelled, rows: Rows, reference: Rows) -> tuple[Mapping[str, Any], ...]:
    """The pairs whose cosine changed most."""
    mine, theirs = _pair_cosines(rows), _pair_cosines(reference)
    pairs = len(data.truth)
    return tuple(
        {
            "text": shorten(data.texts[i]),
            "text_pair": shorten(data.texts[pairs + i]),
            "cosine": float(mine[i]),
            "reference": float(theirs[i]),
            "score": float(data.truth[i]),
        }
        for i in np.argsort(-np.abs(mine - theirs))[:_WORST]
    )


def _now_wrong(data: Labelled, rows: Rows, reference: Rows, spec: ModelSpec) -> tuple[Mapping[str, Any], ...]:
    """Texts that the reference gets right and the engine does not."""
    mine, theirs = (_predicted(data, r, spec) for r in (rows, reference))

    def right(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
        every: NDArray[np.bool_] = (found == data.truth).all(axis=1)
        return every

    lost = np.flatnonzero(right(theirs) & ~right(mine))[:_WORST]

    def named(row: NDArray[np.bool_]) -> str:
        return ", ".join(data.names[j] for j in np.flatnonzero(row)) or "none"

    return tuple(
        {"text": shorten(data.texts[i]), "label": named(mine[i]), "truth": named(data.truth[i])} for i in lost
    )
