"""Checks objects against the schemas of custom resources, as strictly as ``--validate=strict`` does."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parent


def faults(found: dict[str, Any], release: str) -> list[str]:
    """What a release of KServe would say against an object.

    Args:
        found: The object.
        release: As in the names of the schemas' files.
    """
    name = f"{found['apiVersion']}/{found['kind']}"
    validator = _validators(release).get(name)
    if validator is None:
        return [f"{release} knows no {name}"]
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(found)]


@cache
def _validators(release: str) -> dict[str, Draft202012Validator]:
    schemas = yaml.load((FOLDER / f"kserve-{release}.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)
    known: dict[int, Any] = {}
    return {name: Draft202012Validator(_strict(schema, known)) for name, schema in schemas.items()}


def _strict(schema: Any, known: dict[int, Any]) -> Any:
    """A structural schema of Kubernetes as JSON Schema that refuses what the API server would drop.

    Anchors of the file are one object each, and stay so.
    """
    if not isinstance(schema, dict):
        return schema
    if id(schema) in known:
        return known[id(schema)]
    found = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    known[id(schema)] = found
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("anyOf", None)
        found["type"] = ["integer", "string"]
    if "properties" in found:
        found["properties"] = {key: _strict(value, known) for key, value in found["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if key in found:
            found[key] = _strict(found[key], known)
    return found
