"""The page's files over HTTP: types, policy, caching."""

from __future__ import annotations

import re

import pytest

from gateway.config import GatewayConfig
from gateway.facade.page import _FILES
from tests.gateway.conftest import FacadeApp


async def test_everything_the_page_names_is_served_strictly(facade_app: FacadeApp) -> None:
    async with facade_app() as running:
        page = await running.client.get("/", headers={})
        named = set(re.findall(r'(?:href|src)="(/page/[^"]+)"', page.text))
        for text in [content.content.decode() for name, content in _FILES.items() if name.endswith(".js")]:
            named |= {f"/page/{name}" for name in re.findall(r'from "\./([^"]+)"', text)}
        assert {path.removeprefix("/page/") for path in named} == _FILES.keys() - {"index.html", "open.html"}
        for path in ("/", *sorted(named)):
            answer = await running.client.get(path)
            assert answer.status_code == 200, path
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "unsafe" not in answer.headers["content-security-policy"]
            again = await running.client.get(path, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            head = await running.client.head(path)
            assert (head.status_code, head.headers["etag"]) == (200, answer.headers["etag"])


def test_nothing_in_it_names_another_host() -> None:
    for name, file in _FILES.items():
        hosts = set(re.findall(rb"https?://[^\"' ]+", file.content)) - {b"http://www.w3.org/2000/svg"}
        assert not hosts, name


async def test_the_token_is_asked_for_only_where_one_is_needed(facade_app: FacadeApp) -> None:
    for disabled, mark in ((False, "data-auth=token"), (True, "data-auth=none")):
        config = GatewayConfig.model_validate({"auth": {"disabled": disabled}})
        async with facade_app(config) as running:
            assert mark in (await running.client.get("/")).text


@pytest.mark.parametrize("path", ["/page/nothing.js", "/page/..%2f__init__.py", "/page/"])
async def test_other_names_are_not_there(facade_app: FacadeApp, path: str) -> None:
    async with facade_app() as running:
        assert (await running.client.get(path)).status_code == 404


async def test_it_can_be_switched_off(facade_app: FacadeApp) -> None:
    config = GatewayConfig.model_validate({"facade": {"page": False}})
    async with facade_app(config) as running:
        for path in ("/", "/page/app.js"):
            answer = await running.client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
