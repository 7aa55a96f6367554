"""Reads a page as a browser would, strictly."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest

VOID = {"meta", "br", "link", "img", "hr", "input"}


@dataclass
class Page(HTMLParser):
    """Elements, ids and text of a page; refuses tags that are not closed in order."""

    open: list[str] = field(default_factory=list)
    ids: Counter[str] = field(default_factory=Counter)
    tags: Counter[str] = field(default_factory=Counter)
    attributes: list[tuple[str, str]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(key, value or "") for key, value in attrs]
        self.ids.update(value or "" for key, value in attrs if key == "id")
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        (self.styles if self.open and self.open[-1] == "style" else self.text).append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """Cells of the first row that begins so."""
        return next(
            [cell.strip() for cell in row] for row in self.rows if row and row[0].strip().startswith(first)
        )


def read_page(source: str) -> Page:
    """Parse, and check what holds of every page."""
    page = Page()
    page.feed(source)
    page.close()
    assert page.open == []
    assert [name for name, count in page.ids.items() if count > 1] == []
    links = [value for key, value in page.attributes if key == "href"]
    targets = {link[1:] for link in links if link[:1] == "#"}
    labels = {name for key, value in page.attributes if key == "aria-labelledby" for name in value.split()}
    assert (targets | labels) <= set(page.ids)
    assert not {"script", "link", "img", "iframe", "base"} & set(page.tags)
    assert not {key for key, _ in page.attributes if key == "src" or key.startswith("on")}
    assert {link for link in links if link[:1] != "#"} <= {"report.html"}  # nothing leads away
    styles = " ".join([*page.styles, *(value for _, value in page.attributes)])
    assert not re.search(r"@import|url\((?!#)", styles)  # nothing is fetched
    return page


@pytest.fixture
def read() -> Callable[[str], Page]:
    return read_page
