"""The frame of the facade: health, readiness, errors."""

from __future__ import annotations

from tests.gateway.conftest import FacadeApp


async def test_ready_names_the_models(facade_app: FacadeApp) -> None:
    async with facade_app() as running:
        assert (await running.client.get("/health")).json() == {"status": "ok"}
        answer = await running.client.get("/ready")
    assert answer.json() == {"status": "ready", "models": ["embed", "sort", "tinygen"]}


async def test_an_unknown_path_is_a_problem(facade_app: FacadeApp) -> None:
    async with facade_app() as running:
        answer = await running.client.get("/nowhere")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not_found"
