from __future__ import annotations

import json
from typing import Any

import pytest

from python_backends.generator.schema import SchemaError, check_schema

GOOD: list[dict[str, Any]] = [
    {},
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]},
    {"type": ["string", "null"], "pattern": "^(?:a|b)+$"},
    {
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
        "$ref": "#/$defs/node",
    },
    {"type": "array", "items": {"enum": ["x", 1]}, "minItems": 1, "maxItems": 3},
    {"type": "object", "additionalProperties": False},
]
# What OpenVINO GenAI 2026.4 raised on within a step, and what it passes over in silence.
BAD: list[tuple[dict[str, Any], str]] = [
    ({"type": "nonsense"}, "json_schema.type is 'nonsense'"),
    ({"type": []}, "type"),
    ({"type": "array", "items": 5}, "json_schema.items must be an object"),
    ({"$ref": "#/nowhere"}, "not there"),
    ({"properties": {"a": {"$ref": "http://x/y"}}}, "json_schema.properties.a.\\$ref"),
    ({"type": "string", "pattern": "("}, "no regular expression"),
    ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    ({"type": "integer", "minimum": 5, "maximum": 1}, "leaves nothing"),
    ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength 5 is above"),
    ({"type": "array", "minItems": 3, "maxItems": 1}, "minItems 3 is above"),
    ({"type": "array", "minItems": -1}, "at least 0"),
    ({"enum": []}, "enum must be a list"),
    ({"oneOf": []}, "oneOf must be a list"),
    ({"anyOf": [{"type": "x"}]}, "json_schema.anyOf\\[0\\].type"),
    ({"properties": []}, "must be an object of schemas"),
    ({"required": "a"}, "required must be a list"),
    ({"minimum": "5"}, "a number is needed"),
]


@pytest.mark.parametrize("schema", GOOD, ids=json.dumps)
def test_schemas_that_a_grammar_can_be_made_of(schema: dict[str, Any]) -> None:
    check_schema(schema)


@pytest.mark.parametrize(("schema", "says"), BAD, ids=lambda value: json.dumps(value)[:40])
def test_others_are_refused_with_the_place(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        check_schema(schema)


def test_depth_is_bounded() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100):
        schema = {"items": schema}
    with pytest.raises(SchemaError, match="deeper"):
        check_schema(schema)
