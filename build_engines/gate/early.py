"""The part of the gate that needs the model folder alone, for a build to ask before its long steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import build_engines
from build_engines.context import BuildContext
from build_engines.gate.choose import refusal
from build_engines.gate.labelled import Labelled, load_labelled
from build_engines.gate.model import check_model, check_text
from build_engines.gate.verdict import Verdict
from build_engines.versions import source_hash


def model_verdict(context: BuildContext) -> Verdict:
    """Weights, architecture and vocabulary; to be asked as soon as there is a tokenizer.

    Raises:
        GateError: If a check fails and the build is not forced.
        RecipeError: If ``gate.labelled`` cannot be read: better told now than after the build.
    """
    labelled_data(context)
    folder, _ = context.artifact(
        "gate",
        lambda into: _make_model(context, into),
        part="model",
        files=context.model.hashes,
        max_length=context.settled.max_length,
        labels=context.settled.labels,
        tokenizer=context.keys["tokenize"],
        code=source_hash(build_engines.__file__, "gate/model.py", "gate/tensors.py"),
    )
    verdict = Verdict.from_dict(json.loads((folder / "verdict.json").read_text(encoding="utf-8")))
    if not verdict.passed and not context.force:
        raise refusal([verdict], {"chosen": None, "verdicts": {"model": verdict.as_dict()}})
    return verdict


def _make_model(context: BuildContext, folder: Path) -> None:
    """Read the weights and the vocabulary."""
    verdict = check_model(context.model, context.settled, context.tokenizer_path)
    if context.texts is not None and context.tokenizer_path is not None:
        known = check_text(context.texts.held_out, context.tokenizer_path)
        verdict = replace(verdict, checks=(*verdict.checks, known))
    (folder / "verdict.json").write_text(json.dumps(verdict.as_dict()), encoding="utf-8")


def labelled_data(context: BuildContext) -> Labelled | None:
    """The recipe's labelled data, None where it names none.

    Raises:
        RecipeError: If it cannot be read as what it should be.
    """
    recipe = context.recipe
    if recipe.gate.labelled is None:
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(context.tokenizer))
    return load_labelled(recipe.gate.labelled, context.settled, tokenizer, recipe.calibration.seed)
