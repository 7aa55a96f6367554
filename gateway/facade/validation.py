"""Faults that pydantic finds, in words that a caller can use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError

from gateway.errors import ApiError

_CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
    "json_invalid": "invalid_json",
    "unsupported": "unsupported",
}
_OBJECT = "must be an object"
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "dict_type": _OBJECT,
    "list_type": "must be a list",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
}
_PYDANTIC = re.compile("^(Value error, |Input |String |List )")
_LONGEST = 120


def validation_error(error: RequestValidationError) -> ApiError:
    """The first fault of an HTTP request, and how many others there are."""
    faults = error.errors()
    first = faults[0]
    origin, *place = first["loc"]
    if origin != "body":  # query, header, path
        return fault_error({**first, "loc": place}, dict.fromkeys(place))
    return fault_error({**first, "loc": place}, error.body, len(faults) - 1)


def fault_error(fault: Mapping[str, Any], body: Any, others: int = 0) -> ApiError:
    """One fault of pydantic's ``errors()``.

    Args:
        fault: It has ``loc``, ``type`` and ``msg``.
        body: What was validated; tells names of fields from names of pydantic's own in ``loc``.
        others: Faults besides.
    """
    kind = fault["type"]
    field = _field(fault["loc"], body, missing=kind == "missing")
    message = _PYDANTIC.sub("", fault["msg"])
    what = f"{field or 'the body'} {_WORDS.get(kind) or message[:1].lower() + message[1:]}"
    mend = "GET /openapi.json holds the schema" + (f"; {others} more fault(s) follow" if others else "")
    return ApiError(_CODES.get(kind, "invalid_value"), what, field=field, mend=mend)


def _field(place: Sequence[int | str], body: Any, *, missing: bool) -> str | None:
    """The path as the caller wrote it: pydantic puts the members of unions into it too."""
    names = []
    value = body
    for index, part in enumerate(place):
        if _holds(value, part):
            value = value[part]
        elif not (missing and index == len(place) - 1):
            continue
        names.append(str(part)[:_LONGEST])
    return ".".join(names) or None


def _holds(value: Any, part: int | str) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value
