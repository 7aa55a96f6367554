"""The page of the recipe against the schema it is written from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tritonforge.recipe import Recipe
from tritonforge.recipe.reference import BEGIN, END, reference

PAGE = Path(__file__).parents[3] / "docs" / "recipe.md"
ROW = re.compile(
    r"^\| `(?P<key>[\w.]+)` \| (?P<values>.+?) \| (?P<default>.+?) \| (?P<meaning>.*) \|$", re.MULTILINE
)


def keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


@pytest.mark.parametrize(("key", "field"), [pytest.param(*item, id=item[0]) for item in keys()])
def test_a_key_is_explained_once_and_its_default_is_the_schemas(key: str, field: FieldInfo) -> None:
    (row,) = [row for row in ROW.finditer(reference()) if row["key"] == key]
    assert field.description, f"{key} has no description in the schema"
    assert row["meaning"].startswith(field.description.replace("|", "\\|"))
    if field.is_required():
        assert row["default"] == "required"
        return
    default = field.get_default(call_default_factory=True)
    shown = None if row["default"] == "none" else yaml.safe_load(row["default"].strip("`"))
    parsed = Recipe.model_validate(nested(key, shown)) if shown is not None else None
    assert parsed is None or find(parsed, key) == default
    assert parsed is not None or default in (None, [])


def test_the_page_holds_the_reference() -> None:
    between = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert between.strip() == reference().strip(), "run: python tools/reference.py"


def nested(key: str, value: object) -> dict[str, object]:
    """A recipe that says the one key."""
    *sections, name = key.split(".")
    inner: dict[str, object] = {name: value}
    for section in reversed(sections):
        inner = {section: inner}
    return {"name": "x", "model": "y", **inner}


def find(recipe: Recipe, key: str) -> object:
    value: object = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value
