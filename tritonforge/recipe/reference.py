"""Every key of a recipe as Markdown tables, written from the schema, so that no page can lag behind."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tritonforge.recipe.schema import Recipe
from tritonforge.recipe.sections import Section

BEGIN = "<!-- keys: written by tools/reference.py from the schema -->"
END = "<!-- end of keys -->"

_PAGES = {
    "calibration": "[INT8](int8.md), [text](#text)",
    "classification": "[classification](classification.md)",
    "cache": "[response cache](serving.md#response-cache), [kept answers](gateway_limits.md#kept-answers)",
    "edge": "[edge](edge.md)",
    "engine": "[TensorRT](tensorrt.md)",
    "gate": "[gate](gate.md)",
    "generation": "[generation](generation.md)",
    "layout": "[build](build.md)",
    "precision": "[build](build.md)",
    "prune": "[pruning](pruning.md)",
    "quantization": "[INT8](int8.md)",
    "openvino": "[INT8](int8.md#the-float-part)",
    "queue": "[what a bound costs](#queues)",
    "stages": "[one model or two](serving.md#one-model-or-two)",
    "target": "[edge](edge.md)",
    "task": "[classification](classification.md), [generation](generation.md)",
    "tensorrt": "[TensorRT](tensorrt.md)",
}
"""Where more is said about a key or section."""


def reference() -> str:
    """All keys, a table for the recipe itself and one for each of its sections."""
    return "\n".join(_reference()) + "\n"


def _reference() -> Iterator[str]:
    schema = Recipe.model_json_schema()
    sections = {name: kind for name, field in Recipe.model_fields.items() if (kind := _section(field))}
    plain = [name for name in Recipe.model_fields if name not in sections]
    yield from _table(Recipe, schema, schema["$defs"], plain)
    for name, kind in sections.items():
        about = inspect.cleandoc(kind.__doc__ or "")
        see = f" More: {_PAGES[name]}." if name in _PAGES else ""
        yield from ("", f"### {name}", "", about.partition("\n\n")[0] + see, "")
        yield from _table(
            kind, schema["$defs"][kind.__name__], schema["$defs"], list(kind.model_fields), name
        )


def _section(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _table(
    model: type[BaseModel],
    schema: Mapping[str, Any],
    definitions: Mapping[str, Any],
    names: list[str],
    prefix: str = "",
) -> Iterator[str]:
    yield "| key | values | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name in names:
        field = model.model_fields[name]
        key = f"{prefix}.{name}" if prefix else name
        meaning = field.description or ""
        if not prefix and name in _PAGES:
            meaning += f". More: {_PAGES[name]}"
        values = _values(schema["properties"][name], definitions)
        cells = [cell.replace("|", "\\|") for cell in (f"`{key}`", values, _default(field), meaning)]
        yield f"| {' | '.join(cells)} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        value = [item.model_dump(mode="json") for item in value]
    return "none" if value in (None, []) else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _values(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "$ref" in schema:
        parts = definitions[schema["$ref"].rpartition("/")[2]]["properties"]
        return f"mapping of {', '.join(f'`{part}`' for part in parts)}"
    if "anyOf" in schema:
        kinds = [kind for kind in schema["anyOf"] if kind.get("type") != "null"]
        return " or ".join(_values(kind, definitions) for kind in kinds)
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema["type"]
    if kind == "array":
        return f"list of {_values(schema['items'], definitions)}"
    if kind == "boolean":
        return "`true`, `false`"
    if kind == "string":
        return f"text like `{schema['pattern']}`" if "pattern" in schema else "text"
    return _range(schema, whole=kind == "integer")


def _range(schema: Mapping[str, Any], *, whole: bool) -> str:
    """The bounds of a number in words."""
    word = "whole number" if whole else "number"
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if above is not None:
        low, above = (above + 1, None) if whole else (None, above)
    bounds = [
        f"{text} {value}"
        for text, value in (("from", low), ("above", above), ("to", high), ("below", below))
        if value is not None
    ]
    return " ".join([word, *bounds])
