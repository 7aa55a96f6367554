"""Text that engines are calibrated on and judged by: read from the recipe's source, tokenized, split."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from build_engines.check.samples import mixed_lengths
from build_engines.model_files import PACKAGE_PREFIX, file_sha256
from build_engines.spec import ModelSpec
from tritonforge.errors import CalibrationError, RecipeError
from tritonforge.recipe import Recipe

Int32Array = NDArray[np.int32]

_SUFFIXES = (".txt", ".cor", ".md", ".jsonl", ".csv")
_FEWEST = 2  # one text to calibrate with, one to judge by


@dataclass(frozen=True)
class TextSet:
    """Tokenized text, cut at the model's longest.

    Attributes:
        source: What the recipe said.
        calibration: int32 [n] each, what ranges and importances are read from.
        held_out: int32 [n] each, never among those above.
        held_out_texts: The held-out texts themselves, in the same order.
        notes: What a reader of the report should know.
    """

    source: str
    calibration: list[Int32Array]
    held_out: list[Int32Array]
    held_out_texts: list[str]
    notes: tuple[str, ...] = field(default=())


def resolve_source(source: str, where: str) -> Path:
    """Find a file or folder of text.

    Args:
        source: A path, or ``package:NAME/PATH`` for data that ships in an installed distribution.
        where: Key of the recipe, for the error.

    Raises:
        RecipeError: If it is not there.
    """
    if not source.startswith(PACKAGE_PREFIX):
        path = Path(source)
        if not path.exists():
            raise RecipeError(f"there is no {source}", where=where, mend="give a file or folder of text")
        return path
    name, _, inner = source.removeprefix(PACKAGE_PREFIX).partition("/")
    try:
        path = Path(str(distribution(name).locate_file(inner)))
    except PackageNotFoundError:
        raise RecipeError(
            f"package {name!r} is not installed", where=where, mend=f"pip install {name}"
        ) from None
    if not inner or not path.exists():
        raise RecipeError(f"package {name!r} holds no {inner or 'such file'!r}", where=where)
    return path


def source_hashes(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of every file of text that a recipe names, by path."""
    named = {"calibration.texts": recipe.calibration.texts, "gate.texts": recipe.gate.texts}
    paths = [resolve_source(source, where) for where, source in named.items() if source is not None]
    return {str(file): file_sha256(file) for path in paths for file in _files(path)}


def read_texts(path: Path, key: str, where: str) -> list[str]:
    """Read all texts of a file, or of every file of a folder; blank ones are left out.

    Args:
        path: ``.jsonl`` (an object a line), ``.csv`` (with a header), anything else a text a line.
        key: Key or column of the text.
        where: Key of the recipe, for the error.

    Raises:
        CalibrationError: If a file cannot be read as what it is, or there is no text at all.
    """
    texts = [text for file in _files(path) for text in _read_file(file, key, where) if text.strip()]
    if not texts:
        raise CalibrationError(
            "holds no text",
            where=f"{where}: {path}",
            mend=f"give a file with a text a line, or a folder with files of {', '.join(_SUFFIXES)}",
        )
    return texts


def _files(path: Path) -> list[Path]:
    """The file itself, or all files of text in the folder."""
    return sorted(p for p in path.rglob("*") if p.suffix in _SUFFIXES) if path.is_dir() else [path]


def _read_file(path: Path, key: str, where: str) -> Iterator[str]:
    """Texts of one file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".jsonl":
                yield from (str(json.loads(line)[key]) for line in file if line.strip())
            elif path.suffix == ".csv":
                yield from (row[key] for row in csv.DictReader(file))
            else:
                yield from (line.rstrip("\r\n") for line in file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"there is no {key!r} in it" if isinstance(error, KeyError) else str(error)
        raise CalibrationError(
            f"cannot be read: {reason}", where=f"{where}: {path}", mend="see docs/recipe.md for the formats"
        ) from error


def load_text_set(recipe: Recipe, spec: ModelSpec, tokenizer: Tokenizer) -> TextSet:
    """Read, tokenize and split a recipe's text.

    Where the source has enough texts, each is one sample. Where it has fewer than are wanted (a few
    hundred articles, say), samples are windows cut from them, as long as the recipe's length mix asks,
    and no text gives windows to both sides of the split.

    Raises:
        RecipeError: If the recipe names no text, or names one that is not there.
        CalibrationError: If there is not enough of it.
    """
    source = recipe.calibration.texts
    if source is None:
        raise RecipeError(
            "no calibration text is named",
            where="calibration.texts",
            mend="name a file of texts like those that will be served, a text a line",
        )
    key, seed = recipe.calibration.field, recipe.calibration.seed
    texts = read_texts(resolve_source(source, "calibration.texts"), key, "calibration.texts")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(texts))
    texts = list(dict.fromkeys(texts[i] for i in order))
    wanted, judged = recipe.calibration.samples, recipe.gate.samples
    if recipe.gate.texts is not None:
        other = set(texts)
        held = read_texts(resolve_source(recipe.gate.texts, "gate.texts"), key, "gate.texts")
        held = [text for text in dict.fromkeys(held) if text not in other]
    else:
        if len(texts) < _FEWEST:
            raise CalibrationError(
                "holds one text only, and one more is needed to judge by",
                where=f"calibration.texts: {source}",
                mend="give some hundred texts like those that will be served",
            )
        share = judged / (wanted + judged)
        cut = min(max(1, round(len(texts) * share)), len(texts) - 1, judged)
        held, texts = texts[:cut], texts[cut:]
    notes: list[str] = []
    calibration, _ = _samples(recipe, spec, tokenizer, texts, wanted, seed, notes, "calibration")
    held_out, held_texts = _samples(recipe, spec, tokenizer, held, judged, seed + 1, notes, "held-out")
    return TextSet(source, calibration, held_out, held_texts, tuple(notes))


def _samples(
    recipe: Recipe,
    spec: ModelSpec,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    wanted: int,
    seed: int,
    notes: list[str],
    what: str,
) -> tuple[list[Int32Array], list[str]]:
    """At most ``wanted`` samples, whole texts or windows of them."""
    if not texts:
        raise CalibrationError(
            f"leaves no {what} text",
            where="gate.texts" if what == "held-out" else "calibration.texts",
            mend="give texts that are not among the calibration texts",
        )
    chosen = list(texts[:wanted])
    if len(chosen) < wanted:
        windows = _windows(recipe, spec, texts, wanted, seed, tokenizer)
        if len(windows) > len(chosen):
            notes.append(f"{what}: {len(windows)} windows of {len(texts)} texts, as long as the length mix")
            chosen = windows
    if len(chosen) < wanted:
        notes.append(f"{what}: {len(chosen)} samples only, {wanted} were wanted")
    sequences = tokenize(tokenizer, chosen, spec.max_length)
    kept = [(ids, text) for ids, text in zip(sequences, chosen, strict=True) if len(ids)]
    if not kept:
        raise CalibrationError(f"the {what} text gives no token", mend="give text in the model's language")
    return [ids for ids, _ in kept], [text for _, text in kept]


def _windows(
    recipe: Recipe, spec: ModelSpec, texts: Sequence[str], wanted: int, seed: int, tokenizer: Tokenizer
) -> list[str]:
    """Distinct runs of words, about as many tokens long as the length mix asks, from texts long enough."""
    words = [text.split() for text in texts]
    sizes = np.array([len(w) for w in words])
    tokenizer.no_truncation()
    some = list(texts[:50])
    tokens_a_word = sum(len(e.ids) for e in tokenizer.encode_batch_fast(some)) / max(1, sizes[:50].sum())
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    for length in mixed_lengths(recipe.length_mix, 2 * wanted, spec.max_length, seed):
        size = max(1, round((length - 2) / max(tokens_a_word, 1e-6)))
        fits = np.flatnonzero(sizes >= min(size, sizes.max()))
        text = words[rng.choice(fits)]
        start = rng.integers(0, max(1, len(text) - size + 1))
        found[" ".join(text[start : start + size])] = None
        if len(found) == wanted:  # twice the number is drawn, as short windows repeat
            break
    return list(found)


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> list[Int32Array]:
    """Token ids as the served tokenizer gives them, int32 [n] each, cut at ``max_length``."""
    tokenizer.enable_truncation(max_length)
    return [np.asarray(e.ids, dtype=np.int32) for e in tokenizer.encode_batch_fast(list(texts))]


def unknown_share(sequences: Sequence[Int32Array], tokenizer: Tokenizer) -> float:
    """Share of tokens that the vocabulary does not know; high for text in another language."""
    unknown = tokenizer.token_to_id("[UNK]")
    unknown = tokenizer.token_to_id("<unk>") if unknown is None else unknown
    if unknown is None:
        return 0.0
    joined = np.concatenate(sequences)
    return float((joined == unknown).mean())
