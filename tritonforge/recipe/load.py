"""Reads and prints recipes; every mistake becomes one clear error."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tritonforge.errors import RecipeError
from tritonforge.recipe.schema import Recipe


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply ``key=value`` overrides.

    Args:
        path: The YAML file.
        overrides: ``key=value`` pairs with dotted keys, as ``--set`` takes them; values are YAML.

    Returns:
        The validated recipe. Relative paths in it are made absolute from the recipe's folder.

    Raises:
        RecipeError: With the file, the key, and what is allowed there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(str(p) for p in sorted(Path("recipes").glob("*.yaml")))
        mend = f"recipes at hand: {known}" if known else "make one: tritonforge recipe new MODEL_FOLDER"
        raise RecipeError("no such recipe", where=str(path), mend=mend) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"cannot be read: {error}", where=str(path), mend="give a UTF-8 YAML file"
        ) from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"is not YAML: {error}", where=str(path), mend="mend the line it names") from error
    if not isinstance(data, dict):
        raise RecipeError(
            "must be a mapping of keys", where=str(path), mend="start with `name:` and `model:` lines"
        )
    for override in overrides:
        _apply_override(data, override)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(
            describe_faults(error), where=str(path), mend="`tritonforge build --print-recipe` shows every key"
        ) from error
    return _with_absolute_paths(recipe, path.parent)


def _with_absolute_paths(recipe: Recipe, base: Path) -> Recipe:
    """Resolve every relative path of a recipe from the folder it lies in."""

    def absolute(value: str | None) -> str | None:
        if value is None or value.startswith("package:"):
            return value
        return str((base / Path(value).expanduser()).resolve())

    calibration = recipe.calibration.model_copy(update={"texts": absolute(recipe.calibration.texts)})
    gate = recipe.gate.model_copy(
        update={"texts": absolute(recipe.gate.texts), "labelled": absolute(recipe.gate.labelled)}
    )
    return recipe.model_copy(
        update={"model": absolute(recipe.model), "calibration": calibration, "gate": gate}
    )


def dump_recipe(recipe: Recipe) -> str:
    """Give the recipe as YAML with every default filled in."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply_override(data: dict[str, Any], override: str) -> None:
    """Set one dotted key in the raw recipe."""
    key, equals, raw = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(
            f"--set {override!r} is not key=value", mend="for example --set batching.max_batch_size=32"
        )
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override!r}: the value is not YAML: {error}") from error
    node: Any = data
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise RecipeError(f"--set {override!r}: {part!r} holds a value, not a section")
    node[parts[-1]] = value


def describe_faults(error: ValidationError) -> str:
    """Say for each key what is wrong, and which keys are allowed where one is unknown."""
    found: dict[str, list[str]] = {}
    values: dict[str, str] = {}
    for item in error.errors():
        # pydantic names the branch of a union in the location (`int`, `literal[...]`): not a key
        keys = [str(part) for part in item["loc"] if _is_key(part)]
        key = ".".join(keys) or "recipe"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key; allowed here: {', '.join(_allowed_keys(keys[:-1]))}"
        elif item["type"] != "missing" and not isinstance(item["input"], dict):
            values[key] = f" (not {item['input']!r})"
        found.setdefault(key, []).append(message)
    return "; ".join(
        f"{key}: {' or '.join(dict.fromkeys(messages))}{values.get(key, '')}"
        for key, messages in found.items()
    )


def _is_key(part: int | str) -> bool:
    """Tell keys and list indices from the names of union branches."""
    return isinstance(part, int) or (part.isidentifier() and part not in {"int", "bool", "str", "float"})


def _allowed_keys(path: list[str]) -> list[str]:
    """Names of the keys of the section at ``path``."""
    section: type[BaseModel] = Recipe
    for part in path:
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        for candidate in (annotation, *get_args(annotation)):  # a section, or a list of them
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                section = candidate
    return list(section.model_fields)
