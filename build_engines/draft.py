"""A first recipe for a model folder: what its files say, and room for what only its owner knows."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from build_engines.generation.source import GgufFile, find_generator
from build_engines.model_files import PACKAGE_PREFIX, ModelFiles
from build_engines.spec import ModelSpec, settle_spec
from tritonforge.errors import RecipeError
from tritonforge.recipe import Recipe, ServedTask
from tritonforge.recipe.load import describe_faults

_CAUSAL = ("ForCausalLM", "LMHeadModel")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_COMMENT_WIDTH = 108


@dataclass(frozen=True)
class Draft:
    """A recipe as text, not yet written.

    Attributes:
        recipe: What the text comes to; paths are as they stand in it.
        task: The task, settled from the model's files.
        found: What the files say, for people.
        text: The YAML.
    """

    recipe: Recipe
    task: ServedTask
    found: str
    text: str


def draft_recipe(
    model: str, folder: Path, *, name: str | None = None, task: ServedTask | None = None, **keys: Any
) -> Draft:
    """Write the recipe of a model.

    Args:
        model: A model folder, a GGUF file, or ``package:NAME``, from the current folder.
        folder: Where the recipe will lie. What lies below it is named relative to it.
        name: The name to serve it under; default: made of the folder's.
        task: Overrides what the files say.
        **keys: More keys of the recipe, which stand as they are given.

    Raises:
        ModelFilesError: If there is no model, or not one that can be served.
        RecipeError: If no name can be made of the folder's, or the model cannot do the task.
    """
    files = find_generator(model)
    generates = task == "generation" or (task is None and _generates(files))
    data: dict[str, Any] = {"name": name or _name(files), "model": _reference(model, folder)}
    if task is not None or generates:
        data["task"] = "generation" if generates else task
    recipe = _validated(data | keys)
    if generates:
        found = _describe_generator(files)
        return Draft(recipe, "generation", found, _text(found, data | keys, "generation"))
    if isinstance(files, GgufFile):
        raise RecipeError(
            f"a GGUF file generates text; task {task} needs a folder of safetensors",
            where=model,
            mend="leave --task out, or give the model's own folder",
        )
    spec = settle_spec(recipe, files)
    found = _describe_encoder(files, spec)
    return Draft(recipe, spec.task, found, _text(found, data | keys, spec.task))


def _validated(data: dict[str, Any]) -> Recipe:
    """The recipe, or which key it was that it may not have."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(
            describe_faults(error), mend="`tritonforge recipe schema` shows what is allowed"
        ) from None


def _generates(files: ModelFiles | GgufFile) -> bool:
    """Whether the files are a causal language model that sentence-transformers has not made an encoder."""
    if isinstance(files, GgufFile):
        return True
    architectures = files.config.get("architectures") or []
    return files.read_json("modules.json") is None and any(each.endswith(_CAUSAL) for each in architectures)


def _name(files: ModelFiles | GgufFile) -> str:
    """A name as Triton and DNS like it, of the folder, file or package."""
    if files.source.startswith(PACKAGE_PREFIX):
        raw = files.source.removeprefix(PACKAGE_PREFIX).partition("/")[0]
    else:
        path = Path(files.source).resolve()
        raw = path.stem if path.is_file() else path.name
    name = re.sub(r"[^a-z0-9_-]+", "-", raw.lower()).strip("-_")[:63]
    if not _NAME.fullmatch(name):
        raise RecipeError(f"no name can be made of {raw!r}", where="name", mend="give one: --name NAME")
    return name


def _reference(model: str, folder: Path) -> str:
    """The model as the recipe names it."""
    if model.startswith(PACKAGE_PREFIX):
        return model
    return path_from(Path(model), folder)


def path_from(path: Path, folder: Path) -> str:
    """A path as a recipe in ``folder`` names it: relative where both move together, else absolute."""
    whole, base = path.resolve(), folder.resolve()
    return str(whole.relative_to(base) if whole.is_relative_to(base) else whole)


def _describe_generator(files: ModelFiles | GgufFile) -> str:
    if isinstance(files, GgufFile):
        return f"{files.path.name}: weights, config and tokenizer in GGUF. It generates text."
    return f"{_architecture(files)}: it generates text."


def _describe_encoder(files: ModelFiles, spec: ModelSpec) -> str:
    if spec.task == "classification":
        shown = ", ".join(spec.labels[:5]) + (", …" if len(spec.labels) > 5 else "")
        what = f"{len(spec.labels)} labels ({shown}), {spec.activation}"
    else:
        length = ", unit length" if spec.normalize else ""
        what = f"{spec.width} dimensions, {spec.pooling} pooling{length}"
    notes = "".join(f" {note[0].upper()}{note[1:]}." for note in spec.notes)
    return f"{_architecture(files)}: {what}, texts of up to {spec.max_length} tokens.{notes}"


def _architecture(files: ModelFiles) -> str:
    architectures = files.config.get("architectures") or [files.config["model_type"]]
    return str(architectures[0])


def _text(found: str, data: dict[str, Any], task: str) -> str:
    """The keys with a comment above them, and below what is worth adding next."""
    head = [f"# {line}" for line in textwrap.wrap(found, _COMMENT_WIDTH)]
    head.append("# `tritonforge build THIS_FILE --print-recipe` shows every key with its default.")
    body = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=_COMMENT_WIDTH)
    tail = []
    if "calibration" not in data:
        tail = [
            "# Texts like those that will be served (.txt, .jsonl, .csv) let the build judge and calibrate:",
            "# calibration: {texts: FILE}",
        ]
    if task != "generation" and "precision" not in data and "calibration" not in data:
        tail.append("# precision: auto   # then the fastest that the gate passes, INT8 among them")
    return "\n".join([*head, body.rstrip("\n"), *tail, ""])
