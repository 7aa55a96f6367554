"""The OpenAPI document, and whether the application keeps to it."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.config import GatewayConfig
from gateway.facade.app import create_app
from tests.gateway.facade.conftest import ALICE, Served

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


DOCUMENT: Any = create_app(GatewayConfig(), "127.0.0.1:1").openapi()


def test_every_operation_is_told_in_full() -> None:
    names = []
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            names.append(operation["operationId"])
            assert operation["summary"], path
            assert set(operation["tags"]) <= tags, path
            assert "422" not in operation["responses"], path
            if operation["tags"] == ["health"]:
                assert operation["security"] == []
                assert {"429", "503"} <= operation["responses"].keys(), path
            else:
                assert operation["security"] == [{"token": []}, {"key": []}]
                assert {"401", "403", "429", "503", "504"} <= operation["responses"].keys(), path
            if "requestBody" in operation:
                assert {"400", "413", "415"} <= operation["responses"].keys(), path
    assert len(names) == len(set(names))
    assert {"/predict", "/embed/batch", "/v1/chat/completions", "/stats", "/ready"} <= DOCUMENT[
        "paths"
    ].keys()


def test_bodies_refuse_unknown_fields_and_have_examples() -> None:
    bodies = {name: part for name, part in DOCUMENT["components"]["schemas"].items() if name.endswith("Body")}
    for name in ("EmbedBody", "ClassifyBatchBody", "PredictBody", "PredictBatchBody"):
        assert bodies[name]["additionalProperties"] is False
        assert all("examples" in field for field in bodies[name]["properties"].values()), name


def test_references_lead_somewhere() -> None:
    def walk(part: Any) -> None:
        if isinstance(part, dict):
            target: Any = DOCUMENT
            for name in part.get("$ref", "#").split("/")[1:]:
                target = target[name]
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            walk(inner)

    walk(DOCUMENT)


def test_an_open_door_asks_for_nothing() -> None:
    config = GatewayConfig.model_validate({"auth": {"disabled": True}})
    document = create_app(config, "127.0.0.1:1").openapi()
    assert "securitySchemes" not in document["components"]


def test_it_can_be_left_out() -> None:
    config = GatewayConfig.model_validate({"facade": {"docs": False}})
    assert not {"/docs", "/openapi.json"} & {
        getattr(route, "path", "") for route in create_app(config, "127.0.0.1:1").routes
    }


SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [f"{method} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods]


# Not by schemathesis' own `parametrize`: its tests all have one name, and of those xdist runs the first only.
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_application_keeps_to_it(served: Served, operation: str, mode: GenerationMode) -> None:
    method, path = operation.split()
    asked = SCHEMA[path][method]
    if mode.is_negative and not (asked.body or asked.query or asked.path_parameters):
        return  # nothing can be wrong

    @given(case=asked.as_strategy(generation_mode=mode))
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    def keeps_to_it(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=served.url, headers=ALICE, checks=CHECKS)

    keeps_to_it()
