"""Refuses JSON schemas that no grammar can be made of, before an engine fails on them.

OpenVINO GenAI compiles a schema (by XGrammar) within a step, and an exception there ends everyone's answers.
So what XGrammar refuses is looked for here: unknown types, references that lead nowhere, empty choices,
bounds that exclude each other, regular expressions with look-around. https://json-schema.org/draft/2020-12
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
MAX_DEPTH = 32
_CHOICES = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SINGLE = ("items", "additionalProperties", "unevaluatedItems", "unevaluatedProperties", "not", "contains")
_SIZES = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


class SchemaError(ValueError):
    """A schema cannot be kept to; the message says where and why."""


def check_schema(schema: Mapping[str, Any]) -> None:
    """Walk a schema.

    Raises:
        SchemaError: Something in it cannot be made a grammar of.
    """
    _check(schema, schema, "json_schema", 0)


def _check(schema: Any, root: Mapping[str, Any], where: str, depth: int) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise SchemaError(f"{where} must be an object, true or false")
    if depth > MAX_DEPTH:
        raise SchemaError(f"{where} lies deeper than {MAX_DEPTH} schemas")
    _check_type(schema, where)
    _check_reference(schema, root, where)
    _check_bounds(schema, where)
    for key in ("pattern", "patternProperties"):
        for pattern in _patterns(schema.get(key), f"{where}.{key}"):
            _check_pattern(pattern, f"{where}.{key}")
    if "enum" in schema and not (isinstance(schema["enum"], list) and schema["enum"]):
        raise SchemaError(f"{where}.enum must be a list that is not empty")
    required = schema.get("required", [])
    if not (isinstance(required, list) and all(isinstance(name, str) for name in required)):
        raise SchemaError(f"{where}.required must be a list of names")
    for key in _CHOICES:
        if key in schema:
            if not (isinstance(schema[key], list) and schema[key]):
                raise SchemaError(f"{where}.{key} must be a list that is not empty")
            for index, part in enumerate(schema[key]):
                _check(part, root, f"{where}.{key}[{index}]", depth + 1)
    for key in _NAMED:
        if key in schema:
            if not isinstance(schema[key], dict):
                raise SchemaError(f"{where}.{key} must be an object of schemas")
            for name, part in schema[key].items():
                _check(part, root, f"{where}.{key}.{name}", depth + 1)
    for key in _SINGLE:
        if key in schema:
            _check(schema[key], root, f"{where}.{key}", depth + 1)


def _check_type(schema: Mapping[str, Any], where: str) -> None:
    if "type" not in schema:
        return
    named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not named or any(name not in TYPES for name in named):
        raise SchemaError(f"{where}.type is {schema['type']!r}; types are {', '.join(TYPES)}")


def _check_reference(schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> None:
    """References must lead to somewhere in the same schema."""
    if "$ref" not in schema:
        return
    reference = schema["$ref"]
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise SchemaError(f"{where}.$ref is {reference!r}; only #/… within the schema is offered")
    found: Any = root
    for part in reference.split("/")[1:]:
        if not isinstance(found, dict) or part not in found:
            raise SchemaError(f"{where}.$ref is {reference!r}, which is not there")
        found = found[part]
    if not isinstance(found, dict):
        raise SchemaError(f"{where}.$ref is {reference!r}, which is no schema")


def _check_bounds(schema: Mapping[str, Any], where: str) -> None:
    for pair in _SIZES:
        for key in pair:
            value = schema.get(key, 0)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise SchemaError(f"{where}.{key} is {value!r}; a whole number of at least 0 is needed")
        low, high = pair
        if high in schema and schema.get(low, 0) > schema[high]:
            raise SchemaError(f"{where}: {low} {schema[low]} is above {high} {schema[high]}")
    for key in _NUMBERS:
        if key in schema and (isinstance(schema[key], bool) or not isinstance(schema[key], int | float)):
            raise SchemaError(f"{where}.{key} is {schema[key]!r}; a number is needed")
    lows = [schema[key] for key in ("minimum", "exclusiveMinimum") if key in schema]
    highs = [schema[key] for key in ("maximum", "exclusiveMaximum") if key in schema]
    if lows and highs:
        exclusive = "exclusiveMinimum" in schema or "exclusiveMaximum" in schema
        if max(lows) > min(highs) or (exclusive and max(lows) + 1 >= min(highs)):
            raise SchemaError(f"{where}: the least value {max(lows)} leaves nothing below {min(highs)}")


def _patterns(value: Any, where: str) -> list[str]:
    if value is None:
        return []
    patterns = list(value) if isinstance(value, dict) else [value]
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise SchemaError(f"{where} must be a regular expression")
    return patterns


def _check_pattern(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise SchemaError(f"{where} is no regular expression: {error}") from None
    if re.search(r"\(\?(?!:)|\\[bB1-9]", pattern):
        raise SchemaError(f"{where}: look-around, back references and word bounds are not offered")
