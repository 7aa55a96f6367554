"""The pages in a real browser: narrow, wide, dark, printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from loadtest.report import compare, write_diff, write_report
from tests.chromium import browser as browser
from tests.gateway.page.test_look import CONTRASTS, LEAST_CONTRAST
from tests.loadtest.report.synthetic import mm1, run
from tests.loadtest.report.test_page import SLO, whole


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pages")
    long = whole(2, "a-name-" * 12, stream=True)
    two = [long, run(mm1((10,)), "b-name-" * 12, engine="e" * 200)]
    return [write_report(two, folder, SLO), write_diff(compare([whole(1)], [whole(2)]), folder)]


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1000, "light")])
def test_it_is_read_without_scrolling_sideways(
    browser: Browser, pages: list[Path], width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda said: complaints.append(said.text))
    page.on("request", lambda request: asked.append(request.url))
    for path in pages:
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        seen = page.evaluate(
            "[...document.querySelectorAll('svg')].filter((e) => e.checkVisibility()).length"
        )
        assert seen == page.locator("svg").count() // 2 > 0
        faint = [(ratio, text) for ratio, text in page.evaluate(CONTRASTS) if ratio < LEAST_CONTRAST]
        assert not faint
        page.emulate_media(media="print")
        assert page.locator("svg.narrow:visible").count() == 0
        page.emulate_media(media="screen")
    context.close()
    assert complaints == []
    assert asked == [path.as_uri() for path in pages], "something else was fetched"
