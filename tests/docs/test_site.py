"""The site: what GitHub shows of the same pages, whole, and without asking any other host."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STRUCTURE = {
    "h1",
    "h2",
    "h3",
    "h4",
    "p",
    "ul",
    "ol",
    "li",
    "table",
    "tr",
    "th",
    "td",
    "pre",
    "code",
    "em",
    "strong",
}


class Elements(HTMLParser):
    """Counts elements, and gathers what a browser loads by itself."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.loads: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.counts[tag] += tag in STRUCTURE
        source = given.get("href") if tag == "link" else given.get("src")
        if source is not None:
            self.loads.append(source)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_parts_that_github_shows(name: str, site: Path) -> None:
    """Python-Markdown and GitHub part over lists, tables and code; a page must not."""
    source = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    on_github = Elements(MarkdownIt("gfm-like", {"linkify": False}).render(source)).counts
    html = (site / f"{name}.html").read_text(encoding="utf-8")
    article = html[html.index("<article") : html.index("</article>")]
    assert Elements(article).counts == on_github


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    missing = []
    for page in site.rglob("*.html"):
        base = site if page.name == "404.html" else page.parent  # that one is for a server's root
        for address in Elements(page.read_text(encoding="utf-8")).loads:
            url = urlsplit(address)
            assert not url.netloc, f"{page.name} loads {address}"
            if url.path and not url.scheme and not (base / url.path.lstrip("/")).is_file():
                missing.append(f"{page.name}: {address}")
    assert not missing
    sheets = "".join(sheet.read_text(encoding="utf-8") for sheet in site.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import )['\"]?https?://[^)]*", sheets)


def watched(browser: Browser, home: str) -> tuple[Page, list[str]]:
    """A page of a browser, and what it should not have done."""
    page = browser.new_page()
    faults: list[str] = []

    def asked(address: str) -> None:
        if not address.startswith((home, "data:", "blob:")):
            faults.append(f"asked {address}")

    page.on("request", lambda request: asked(request.url))
    page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.set_default_timeout(20_000)
    return page, faults


@pytest.mark.slow
def test_every_page_reads_well_on_a_desk_and_on_a_phone(browser: Browser, site_url: str) -> None:
    page, faults = watched(browser, site_url)
    for name in PAGES:
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(f"{site_url}/{name}.html")
        expect(page.locator("article h1")).to_have_count(1)
        expect(page.locator(".md-nav--primary .md-nav__link--active").first).to_be_attached()
        page.set_viewport_size({"width": 390, "height": 800})
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{name} is {wide} pixels too wide for a phone"
        assert faults == [], name


@pytest.mark.parametrize(
    "name", [name for name in PAGES if "```mermaid" in (ROOT / "docs" / f"{name}.md").read_text()]
)
def test_diagrams_are_drawn(name: str, browser: Browser, site_url: str) -> None:
    diagrams = DIAGRAM.findall((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8"))
    page, faults = watched(browser, site_url)
    page.goto(f"{site_url}/{name}.html")
    drawn = page.locator("div.mermaid")  # the theme hides the picture itself in a closed shadow root
    expect(drawn).to_have_count(len(diagrams))
    for index, source in enumerate(diagrams):
        page.evaluate("source => mermaid.parse(source)", source)
        box = drawn.nth(index).bounding_box()
        assert box is not None and box["width"] > 300 and box["height"] > 60
    assert faults == []


def test_it_is_searched_from_disk(browser: Browser, site: Path) -> None:
    home = site.as_uri()
    page, faults = watched(browser, home)
    page.goto(f"{home}/index.html")
    page.locator("input.md-search__input").fill("CrashLoopBackOff")
    hit = page.locator("a.md-search-result__link").first
    expect(hit).to_be_visible()
    hit.click()
    expect(page.locator("article h1")).to_contain_text("Troubleshooting")
    assert faults == []


def test_a_file_that_a_page_links_to_is_shown(browser: Browser, site_url: str) -> None:
    page, faults = watched(browser, site_url)
    page.goto(f"{site_url}/generation.html")
    page.locator("article a", has_text="recipes/smollm2.yaml").click()
    expect(page.locator("article pre")).to_contain_text("task: generation")
    assert faults == []


def test_a_block_that_is_not_run_says_why(site: Path) -> None:
    assert "Not run by the tests: some minutes" in (site / "troubleshooting.html").read_text(encoding="utf-8")
