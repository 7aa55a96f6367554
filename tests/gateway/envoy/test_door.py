"""What comes through the door, in what form, and what does not."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

import httpx
import pytest
import websockets.sync.client as websockets
from websockets.exceptions import InvalidStatus

from tests.gateway.envoy import raw
from tests.gateway.envoy.echo_door import EchoDoor, mint

MEMBERS = {"type", "title", "status", "detail", "code", "field", "mend"}


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of an answer that must be a problem."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) - {"error", "retry_after_s"} == MEMBERS
    assert ("retry-after" in answer.headers) == ("retry_after_s" in body)
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"] == f"urn:tritonforge:problem:{code}"
    assert body["mend"]
    return body


def reached(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["headers"])


def test_what_only_the_gateway_may_say_is_dropped(echo: EchoDoor) -> None:
    forged = {
        "x-tritonforge-subject": "root",
        "X-Tritonforge-Scopes": "embed kserve model:*",
        "x-tritonforge-pool": "elsewhere",
        "x-tritonforge-expires": "99999999999",
        "x-tritonforge-anything": "1",
        "x-envoy-retry-on": "5xx",
        "x-envoy-original-path": "/internal/admit",
        "x-forwarded-for": "10.0.0.1",
    }
    with echo.client(mint("embed model:a", sub="bob")) as client:
        seen = reached(client.post("/embed", headers=forged, json={}))
    assert (seen["x-tritonforge-subject"], seen["x-tritonforge-scopes"]) == ("bob", "embed model:a")
    assert seen["x-tritonforge-expires"] != forged["x-tritonforge-expires"]
    ours = {"x-tritonforge-subject", "x-tritonforge-scopes", "x-tritonforge-expires"}
    assert {name for name in seen if name.startswith("x-tritonforge")} == ours
    assert "authorization" not in seen
    assert not {"x-envoy-retry-on", "x-envoy-original-path"} & seen.keys()


def test_a_header_that_ends_triton_is_refused(echo: EchoDoor) -> None:
    with echo.client(mint("kserve model:*")) as client:
        answer = client.post("/v2/models/a/infer", headers={"triton_grpc_error": "true"}, json={})
    assert "unexpected_underscore" in problem(answer, 400, "invalid_value")["detail"]


def test_forged_identity_opens_nothing(echo: EchoDoor) -> None:
    forged = {"x-tritonforge-subject": "root", "x-tritonforge-scopes": "embed kserve generate model:*"}
    with echo.client() as client:
        for method, path in (("POST", "/embed"), ("POST", "/v2/models/a/infer"), ("GET", "/v1/models")):
            problem(client.request(method, path, headers=forged), 401, "unauthenticated")
        # Open paths take no identity along either.
        assert "x-tritonforge-subject" not in reached(client.get("/health", headers=forged))


def test_raw_requests_reach_a_server_without_credentials(echo: EchoDoor) -> None:
    with echo.client(mint("kserve model:a")) as client:
        answer = client.post("/v2/models/a/versions/1/infer?x=1", content=b"12345")
        seen = reached(answer)
    assert (answer.json()["path"], answer.json()["length"]) == ("/v2/models/a/versions/1/infer", 5)
    assert "authorization" not in seen


def test_answers_carry_an_id_and_no_names_of_software(echo: EchoDoor) -> None:
    with echo.client() as client:
        for path in ("/health", "/nothing"):
            answer = client.get(path)
            assert len(answer.headers["x-request-id"]) == 36
            assert not {"server", "x-envoy-upstream-service-time"} & answer.headers.keys()


@pytest.mark.parametrize(
    "path", ["/", "/health", "/ready", "/docs", "/docs/a.js", "/page/app.js", "/openapi.json"]
)
def test_open_without_a_token(echo: EchoDoor, path: str) -> None:
    with echo.client() as client:
        assert client.get(path).status_code == 200
        refused = client.post(path, json={})
        problem(refused, 405, "method_not_allowed")
        assert refused.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "line",
    [
        "GET /internal/admit",
        "GET /internal/jwks/company",
        "GET /metrics",
        "GET /metrics/envoy",
        "GET /stats/prometheus",
        "GET //internal/admit",
        "GET /health/../internal/admit",
        "GET /page/../internal/admit",
        "GET /page/%2e%2e/internal/admit",
        "GET /page/..;/internal/admit",
        "GET /./internal/admit",
        "GET /HEALTH",
        "GET /Internal/admit",
        "GET /healthy",
        "GET /embedded",
        "POST /v2/repository/index",
        "POST /v2/repository/models/a/load",
        "GET /v2/systemsharedmemory/status",
        "POST /v2/systemsharedmemory/region/x/register",
        "GET /v2/cudasharedmemory/status",
        "GET /v2/trace/setting",
        "POST /v2/models/a/trace/setting",
        "GET /v2/logging",
        "POST /v2/logging",
        "DELETE /v2/models/a",
        "GET /v2/models/a/infer",
        "POST /v2/models/a/unload",
        "POST /v2/models/a/versions/x/infer",
        "GET /V2/models/a",
        "GET /v2/models/a%20b/ready",
        "GET /v2/models/",
        "POST /inference.GRPCInferenceService/ModelInfer",
        "GET /v1/files",
    ],
)
def test_what_is_not_listed_is_not_there(echo: EchoDoor, line: str) -> None:
    answer = raw.send(echo, raw.request(f"{line} HTTP/1.1", f"authorization: Bearer {mint()}"))
    assert raw.status(answer) == 404, answer
    assert b"application/problem+json" in answer and b'"code":"not_found"' in answer


@pytest.mark.parametrize(
    "line",
    [
        "GET /page%2f..%2finternal/admit",
        "GET /v2%2Fmodels/a",
        "GET /page/..%5cinternal",
        "GET /page\\..\\internal",
    ],
)
def test_escaped_slashes_are_refused(echo: EchoDoor, line: str) -> None:
    answer = raw.send(echo, raw.request(f"{line} HTTP/1.1", f"authorization: Bearer {mint()}"))
    assert raw.status(answer) in (400, 404), answer
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    ("request_line", "header"),
    [
        ("GET /health HTTP/1.1", "x_tritonforge_subject: root"),  # many servers read _ as -
        ("GET /health HTTP/1.1", "content-length: 3\r\ntransfer-encoding: chunked"),
        ("GET /health HTTP/1.1", "x-a: b\0c"),
        ("GET /health HTTP/9.9", "x: y"),
        ("GET /hea lth HTTP/1.1", "x: y"),
    ],
)
def test_malformed_requests_get_a_problem(echo: EchoDoor, request_line: str, header: str) -> None:
    answer = raw.send(echo, raw.request(request_line, header))
    assert raw.status(answer) == 400, answer
    assert b'"code":"invalid_value"' in answer


def test_too_many_headers_get_a_problem(echo: EchoDoor) -> None:
    answer = raw.send(echo, raw.request("GET /health HTTP/1.1", f"x-long: {'a' * 70_000}"))
    assert raw.status(answer) == 431
    assert b'"code":"headers_too_large"' in answer


def test_problems_below_v1_speak_openais_language_too(echo: EchoDoor) -> None:
    with echo.client() as client:
        body = problem(client.post("/v1/embeddings", json={}), 401, "unauthenticated")
        assert body["error"]["code"] == "unauthenticated"
        assert body["error"]["type"] == "invalid_request_error"
        assert "error" not in problem(client.post("/embed", json={}), 401, "unauthenticated")


def test_scopes_are_checked_at_the_door(echo: EchoDoor) -> None:
    with echo.client(mint("embed model:a")) as client:
        body = problem(client.post("/predict", json={}), 403, "forbidden")
        assert body["detail"] == "scope generate is missing"
        assert "generate" in body["mend"]
        problem(client.get("/v2/models/a"), 403, "forbidden")
    with echo.client(mint("kserve model:a")) as client:
        body = problem(client.post("/v2/models/b/infer"), 403, "forbidden")
        assert (body["field"], body["detail"]) == ("model", "scope model:b is missing")


def test_subjects_are_made_fit_for_headers(echo: EchoDoor) -> None:
    subjects = {"a b\r\nx: y": "a%20b%0D%0Ax:%20y", "é%": "%C3%A9%25"}
    for subject, written in subjects.items():
        with echo.client(mint(sub=subject)) as client:
            assert reached(client.get("/stats"))["x-tritonforge-subject"] == written
    for refused in ("key:ci-abcdef", "", "a" * 300, None, 5):
        with echo.client(mint(sub=refused)) as client:
            problem(client.get("/stats"), 401, "unauthenticated")


def test_a_list_of_scopes_is_read_and_other_claims_open_nothing(echo: EchoDoor) -> None:
    for claim, kept in ((["embed", "model:a"], "embed model:a"), (["a\nb", 5], "a b"), ({"x": "embed"}, "")):
        with echo.client(mint(scope=claim)) as client:
            assert reached(client.get("/stats"))["x-tritonforge-scopes"] == kept


def test_two_credentials_are_one_too_many(echo: EchoDoor) -> None:
    token = f"authorization: Bearer {mint()}"
    for second in (token, "authorization: Basic YTpi", "x-api-key: tfk_a"):
        answer = raw.send(echo, raw.request("GET /stats HTTP/1.1", token, second))
        assert raw.status(answer) == 401
        assert b"two credentials" in answer


def test_tokens_in_the_query_are_not_read(echo: EchoDoor) -> None:
    with echo.client() as client:
        problem(client.get("/stats", params={"access_token": mint()}), 401, "unauthenticated")
    assert mint()[:20] not in echo.log.read_text()


def test_pages_of_allowed_origins_may_call(echo: EchoDoor) -> None:
    with echo.client() as client:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        allowed = client.options("/embed", headers={**asked, "origin": "https://app.example.com"})
        assert allowed.headers["access-control-allow-origin"] == "https://app.example.com"
        refused = client.options("/embed", headers={**asked, "origin": "https://evil.example.com"})
        assert "access-control-allow-origin" not in refused.headers
        # Pages must be able to read why they were refused.
        answer = client.post("/embed", headers={"origin": "https://app.example.com"})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"


def test_websockets_only_at_their_path(echo: EchoDoor) -> None:
    address = f"ws://127.0.0.1:{echo.port}"
    bearer = websockets.Subprotocol(f"bearer.{mint(sub='web')}")
    protocols = [websockets.Subprotocol("tritonforge.v1"), bearer]
    with websockets.connect(f"{address}/ws/generate", subprotocols=protocols) as socket:
        seen = dict(json.loads(socket.recv())["headers"])
        assert socket.subprotocol == "tritonforge.v1"
    assert (seen["x-tritonforge-subject"], seen["sec-websocket-protocol"]) == ("web", "tritonforge.v1")
    assert "authorization" not in seen
    for path, status in (("/embed", 404), ("/health", 404), ("/v2/models/a/infer", 404)):
        with (
            pytest.raises(InvalidStatus) as refused,
            websockets.connect(address + path, subprotocols=protocols),
        ):
            pass
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body or b"")["status"] == status
    for offered in (None, [websockets.Subprotocol("bearer.x.y.z")]):
        with (
            pytest.raises(InvalidStatus) as refused,
            websockets.connect(f"{address}/ws/generate", subprotocols=offered),
        ):
            pass
        assert refused.value.response.status_code == 401


def test_prometheus_gets_two_paths_and_nothing_else(echo: EchoDoor) -> None:
    base = f"http://127.0.0.1:{echo.config.metrics.port}"
    with httpx.Client(base_url=base, trust_env=False) as client:
        assert client.get("/metrics").json()["path"] == "/metrics"
        assert "envoy_http_downstream_rq_total" in client.get("/metrics/envoy").text
        for path in ("/", "/stats", "/metrics/envoy/x", "/metrics/../quitquitquit", "/config_dump"):
            assert client.get(path).status_code == 404
        assert client.post("/metrics/envoy").status_code == 404


def logged(echo: EchoDoor, subject: str) -> dict[str, Any]:
    """The line of the one request of somebody."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for text in echo.log.read_text().splitlines():
            line: dict[str, Any] = json.loads(text) if text.startswith("{") and text.endswith("}") else {}
            if line.get("subject") == subject:
                return line
        time.sleep(0.1)
    raise AssertionError("no such line")


def test_the_access_log_has_no_queries(echo: EchoDoor) -> None:
    with echo.client(mint(sub="logged")) as client:
        client.get("/stats", params={"text": "private words"})
    line = logged(echo, "logged")
    assert (line["path"], line["status"], line["method"]) == ("/stats", 200, "GET")
    assert "private" not in echo.log.read_text()


def test_a_request_keeps_its_id_if_that_is_a_plain_one(echo: EchoDoor) -> None:
    with echo.client(mint()) as client:
        for given in ("order-7:a/b+c=", "550e8400-e29b-41d4-a716-446655440000", "x" * 128):
            answer = client.get("/stats", headers={"x-request-id": given})
            assert answer.headers["x-request-id"] == given
            assert reached(answer)["x-request-id"] == given
        made = set()
        for given in ("x" * 129, "two words", 'a"b', ""):
            answer = client.get("/stats", headers={"x-request-id": given})
            made.add(answer.headers["x-request-id"])
            assert reached(answer)["x-request-id"] == answer.headers["x-request-id"]
    assert all(len(each) == 36 for each in made)
    assert len(made) == 4


def test_a_line_names_request_and_model(echo: EchoDoor) -> None:
    with echo.client(mint("kserve model:mine", sub="namer")) as client:
        client.post("/v2/models/mine/infer", headers={"x-request-id": "r-77"}, json={})
    line = logged(echo, "namer")
    assert (line["event"], line["component"], line["level"]) == ("request", "envoy", "info")
    assert (line["request_id"], line["model"]) == ("r-77", "mine")
    assert datetime.fromisoformat(line["time"]).tzinfo is not None
