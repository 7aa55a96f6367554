"""Step 2: the tokenizer that will be served, and the text to calibrate on and to judge by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import build_engines
from build_engines.context import BuildContext, StepOutcome
from build_engines.repository.tokenizer import write_tokenizer
from build_engines.steps.gate import model_verdict
from build_engines.texts import TextSet, load_text_set, source_hashes, unknown_share
from build_engines.versions import package_versions, source_hash
from tritonforge.errors import RecipeError
from tritonforge.recipe import Recipe

_MANY_UNKNOWN = 0.05  # of the tokens: the text is likely not in the model's language


class TokenizeStep:
    """Writes ``tokenizer.json``, and ``texts.npz`` where the recipe names text."""

    name = "tokenize"

    def run(self, context: BuildContext) -> StepOutcome:
        """Tokenize, or reuse."""
        recipe = context.recipe
        _require_text(recipe)
        folder, reused = context.artifact(
            self.name,
            lambda into: self._make(context, into),
            files=context.model.hashes,
            max_length=context.settled.max_length,
            lowercase=context.settled.lowercase,
            calibration=recipe.calibration.model_dump(exclude={"method"}),
            held_out=[recipe.gate.texts, recipe.gate.samples],
            sources=source_hashes(recipe),
            mix=[share.model_dump() for share in recipe.length_mix] if recipe.calibration.texts else None,
            versions=package_versions(("tokenizers", "transformers")),
            code=source_hash(build_engines.__file__, "repository", "texts.py"),
        )
        context.tokenizer_path = folder / "tokenizer.json"
        facts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        if facts:
            context.texts = _read(folder / "texts.npz", facts)
        model_verdict(context)  # a broken model is refused here, before minutes of export
        if context.texts is None:
            return StepOutcome(reused=reused, figures={"texts": None})
        figures = {
            "source": facts["source"],
            "calibration": len(context.texts.calibration),
            "held_out": len(context.texts.held_out),
            "tokens": int(sum(len(ids) for ids in context.texts.calibration)),
            "unknown_share": facts["unknown_share"],
        }
        return StepOutcome(reused=reused, figures=figures, notes=context.texts.notes)

    def _make(self, context: BuildContext, folder: Path) -> None:
        """Write tokenizer and text into an empty folder."""
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        write_tokenizer(context.model, context.settled, path)
        facts: dict[str, object] = {}
        if context.recipe.calibration.texts is not None:
            tokenizer = Tokenizer.from_file(str(path))
            texts = load_text_set(context.recipe, context.settled, tokenizer)
            unknown = unknown_share(texts.calibration, tokenizer)
            notes = list(texts.notes)
            if unknown > _MANY_UNKNOWN:
                notes.append(
                    f"calibration: the vocabulary does not know {unknown:.0%} of the tokens; "
                    "is the text in the model's language?"
                )
            facts = {
                "source": texts.source,
                "held_out_texts": texts.held_out_texts,
                "notes": notes,
                "unknown_share": unknown,
            }
            np.savez(folder / "texts.npz", **_packed(texts))
        (folder / "texts.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")


def _require_text(recipe: Recipe) -> None:
    """Refuse a recipe that needs text and names none."""
    if recipe.calibration.texts is not None:
        return
    mend = "name a file of texts like those that will be served, a text a line"
    if recipe.precision in {"int8", "fp8"}:
        what, mend = f"precision {recipe.precision}", f"{mend}; or set precision: int8-dynamic"
    elif recipe.prune.sparsity:
        what = "pruning"
    else:
        return
    raise RecipeError(
        f"{what} needs text to calibrate on, and the recipe names none", where="calibration.texts", mend=mend
    )


def _packed(texts: TextSet) -> dict[str, NDArray[np.int32]]:
    """Sequences as flat arrays and lengths."""
    arrays = {}
    for name, sequences in (("calibration", texts.calibration), ("held_out", texts.held_out)):
        arrays[name] = np.concatenate(sequences)
        arrays[f"{name}_lengths"] = np.array([len(ids) for ids in sequences], dtype=np.int32)
    return arrays


def _read(path: Path, facts: dict[str, object]) -> TextSet:
    """Read what :func:`_packed` gave."""
    with np.load(path, allow_pickle=False) as saved:
        parts = {name: _split(saved[name], saved[f"{name}_lengths"]) for name in ("calibration", "held_out")}
    held_out_texts, notes = facts["held_out_texts"], facts["notes"]
    assert isinstance(held_out_texts, list) and isinstance(notes, list)
    return TextSet(
        str(facts["source"]), parts["calibration"], parts["held_out"], held_out_texts, tuple(notes)
    )


def _split(tokens: NDArray[np.int32], lengths: Sequence[int]) -> list[NDArray[np.int32]]:
    """Flat tokens back to sequences."""
    return np.split(tokens, np.cumsum(lengths)[:-1])
