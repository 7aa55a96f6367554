"""``/docs`` in a real browser."""

from __future__ import annotations

import httpx
from playwright.async_api import async_playwright

from tests.gateway.facade.conftest import Served


async def test_the_page_needs_no_outside_host(served: Served) -> None:
    faults: list[str] = []
    hosts: set[str] = set()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = await browser.new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        await page.goto(f"{served.url}/docs")
        await page.wait_for_selector("#operations-embedding-embed")
        await page.click("#operations-embedding-embed")
        await page.wait_for_selector("text=a cat sits on the mat")
        await browser.close()
    assert faults == []
    assert hosts - {""} == {f"127.0.0.1:{served.port}"}


def test_files_carry_their_guards(served: Served) -> None:
    for path in ("/docs", "/docs/start.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"):
        answer = httpx.get(served.url + path, timeout=60)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert httpx.head(served.url + path).status_code == 200
