"""A real browser, and the facade that serves it the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from gateway.config import GatewayConfig
from tests.chromium import browser as browser
from tests.gateway.serving import serve_facade
from tritonforge.server import TritonServer

TIMEOUT_MS = 60_000  # for a machine that is busy
expect.set_options(timeout=TIMEOUT_MS)


@pytest.fixture(scope="session")
def facade_url(triton: TritonServer) -> Iterator[str]:
    """The facade's address; it needs a token."""
    with serve_facade(triton.grpc_url) as url:
        yield url


@pytest.fixture(scope="session")
def open_facade(triton: TritonServer) -> Iterator[str]:
    """The same, for everybody."""
    config = GatewayConfig.model_validate({"auth": {"disabled": True}})
    with serve_facade(triton.grpc_url, config) as url:
        yield url


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens a page; at the end none may have left its origin, or complained on the console."""
    contexts = []
    foreign: list[str] = []
    complaints: list[str] = []

    def visit(url: str, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        host = url.split("//")[1]

        def look(address: str) -> None:
            if address.split("//")[-1].split("/")[0] != host:
                foreign.append(address)

        page.on("request", lambda request: look(request.url))
        page.on("websocket", lambda socket: look(socket.url))
        page.on("console", lambda said: complaints.append(said.text) if said.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert foreign == []
    assert complaints == []
