"""The playground in a real browser: each task, by mouse and by keyboard, wide and narrow, light and dark."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.gateway.conftest import ALL_SCOPES, Door
from tests.gateway.openai.test_leaving import Ended
from tests.gateway.page.conftest import OpenPage
from tritonforge.server import TritonServer

READY = '#state[data-state="good"]'
FINE = re.compile(r"^\d+(\.\d+)?")
ENDLESS = {"max_tokens": "400", "temperature": "2"}


def ready(page: Page) -> Page:
    expect(page.locator(READY)).to_have_text("3 models")
    return page


def ask_in_chat(page: Page, text: str, transport: str = "sse", **settings: str) -> None:
    page.evaluate("document.querySelector('#generation details').open = true")
    page.locator(f"input[value={transport}]").check()
    for name, value in settings.items():
        page.locator(f"#generation [name={name}]").fill(value)
    page.locator("#prompt").fill(text)
    page.locator("#generation [data-send]").click()


def test_texts_are_compared(open_page: OpenPage, open_facade: str) -> None:
    page = ready(open_page(open_facade))
    expect(page.locator("#access")).to_be_hidden()
    page.locator("#embedding-texts").fill("one calm evening\n\n  the minister  \none calm evening")
    page.get_by_role("button", name="Compare").click()
    cells = page.locator(".heat td:not(.corner)")
    expect(cells).to_have_count(9)
    values = [float(text) for text in cells.all_inner_texts()]
    assert (
        values[0] == values[4] == values[8] == values[2] == 1
    )  # the diagonal, and the text that is there twice
    assert values[1] < 1
    expect(page.locator("#meter-latency")).to_have_text(FINE)
    expect(page.locator("#meter-latency + svg polyline")).to_have_attribute("points", re.compile(","))


def test_batch_size_and_queue_time_are_shown_live(open_page: OpenPage, open_facade: str) -> None:
    page = ready(open_page(open_facade))
    for attempt in range(60):
        page.locator("#embedding-texts").fill(f"one {attempt}\ntwo {attempt}\nthree {attempt}")
        page.get_by_role("button", name="Compare").click()
        page.wait_for_timeout(700)
        if FINE.match(page.locator("#meter-batch").inner_text()):
            break
    assert float(page.locator("#meter-batch").inner_text()) >= 1
    expect(page.locator("#meter-queue")).to_have_text(FINE)


def test_texts_are_classified(open_page: OpenPage, open_facade: str) -> None:
    page = ready(open_page(open_facade))
    page.get_by_role("tab", name="Classification").click()
    page.get_by_role("button", name="Classify").click()
    expect(page.locator(".bars h3")).to_have_count(2)
    first = page.locator(".bars > div").first
    assert sorted(first.locator("dt").all_inner_texts()) == ["calm", "glad", "sad"]
    scores = [float(text) for text in first.locator(".number").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=0.005)
    widths = [bar.bounding_box() for bar in first.locator(".fill").all()]
    assert widths[0] and widths[2] and widths[0]["width"] > widths[2]["width"]


@pytest.mark.parametrize("transport", ["sse", "websocket"])
def test_a_conversation_is_streamed(open_page: OpenPage, open_facade: str, transport: str) -> None:
    page = ready(open_page(open_facade))
    page.get_by_role("tab", name="Chat").click()
    ask_in_chat(page, "Hello", transport, max_tokens="20", temperature="0")
    facts = page.locator(".turn.assistant .hint")
    expect(facts).to_have_text(re.compile(r"^20 tokens, first after \d+ ms, \d+ a second, cut"))
    assert page.locator(".turn.assistant .text").inner_text()
    for name in ("latency", "first", "speed"):
        expect(page.locator(f"#meter-{name}")).to_have_text(FINE)
    ask_in_chat(page, "And then?", transport, max_tokens="5", temperature="0")
    expect(facts).to_have_count(2)
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".turn")).to_have_count(0)


CLICK = """document.querySelector("#generation [data-stop]").click()"""
ESCAPE = """document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }))"""


@pytest.mark.parametrize(("transport", "stop"), [("sse", CLICK), ("websocket", CLICK), ("sse", ESCAPE)])
def test_stop_ends_it_on_the_server(
    open_page: OpenPage, open_facade: str, triton: TritonServer, transport: str, stop: str
) -> None:
    page = ready(open_page(open_facade))
    page.get_by_role("tab", name="Chat").click()
    ended = Ended(triton.metrics_url)
    for _ in range(8):  # the tiny model is quick, and may be done before the page has shown its first text
        ask_in_chat(page, "Go on", transport, **ENDLESS)
        page.evaluate(
            """() => new Promise((done) => {
                 const texts = document.getElementsByClassName("text");
                 const send = document.querySelector("#generation [data-send]");
                 const seen = () => texts[texts.length - 1]?.textContent || !send.disabled;
                 const look = () => seen() ? done() : setTimeout(look, 2);
                 look();
               }).then(() => { STOP })""".replace("STOP", stop)
        )
        expect(page.get_by_role("button", name="Send")).to_be_enabled()
        shown = page.locator(".turn.assistant .hint").last.inner_text()
        if "stopped" in shown and ended.settled(at_least=1)["cancelled"]:
            return
        page.get_by_role("button", name="New conversation").click()
    pytest.fail("no answer was stopped")


def test_all_of_it_by_keyboard(open_page: OpenPage, open_facade: str) -> None:
    page = ready(open_page(open_facade))
    keys = page.keyboard
    keys.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    keys.press("Enter")
    keys.press("Tab")
    expect(page.get_by_role("tab", name="Embedding")).to_be_focused()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    keys.press("End")
    expect(page.get_by_role("tab", name="Chat")).to_be_focused()
    keys.press("ArrowRight")  # around
    keys.press("ArrowRight")
    expect(page.get_by_role("tab", name="Classification")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tabpanel", name="Classification")).to_be_visible()
    keys.press("Tab")
    expect(page.locator("#classification-model")).to_be_focused()
    keys.press("Tab")
    keys.press("Control+A")
    keys.type("a glad day")
    keys.press("Control+Enter")
    expect(page.locator(".bars h3")).to_have_text("a glad day")
    keys.press("Shift+Tab")
    keys.press("Shift+Tab")
    keys.press("ArrowRight")
    keys.press("Tab")  # the conversation, which scrolls
    keys.press("Tab")
    expect(page.locator("#prompt")).to_be_focused()
    keys.press("Control+A")
    keys.type("Hello")
    keys.press("Tab")
    keys.press("Enter")
    expect(page.locator(".turn.assistant .hint")).to_have_count(1)
    assert page.evaluate(outline) == "solid"
    expect(page.locator("#said")).to_have_text(re.compile("Answer of"))


def test_a_token_is_asked_for_and_kept_in_the_tab_alone(open_page: OpenPage, facade_url: str) -> None:
    page = open_page(facade_url)
    expect(page.locator("#state")).to_have_text("A token is needed")
    expect(page.locator("#token")).to_be_focused()
    page.keyboard.type("token-of-alice")
    page.keyboard.press("Enter")
    ready(page)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".heat")).to_be_visible()
    page.get_by_role("tab", name="Chat").click()
    ask_in_chat(page, "Hello", "websocket", max_tokens="5")
    expect(page.locator(".turn.assistant .hint")).to_have_count(1)
    assert page.evaluate("({...sessionStorage})") == {"token": "token-of-alice"}
    assert page.evaluate("localStorage.length + document.cookie.length") == 0
    assert "token-of-alice" not in page.content()
    page.reload()
    ready(page)
    page.get_by_role("button", name="Forget token").click()
    expect(page.locator("#token")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


def test_what_goes_wrong_is_told_with_what_helps(open_page: OpenPage, open_facade: str) -> None:
    page = ready(open_page(open_facade))
    page.get_by_role("tab", name="Chat").click()
    ask_in_chat(
        page, "Hello", "websocket", max_tokens="8000"
    )  # more than the context; no failed HTTP request
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("max_tokens")
    expect(problem).to_contain_text("What helps:")
    expect(problem).to_contain_text("invalid_value")
    expect(page.locator("#prompt")).to_have_value("Hello")
    page.get_by_role("tab", name="Embedding").click()
    expect(problem).to_be_hidden()


def test_through_the_whole_gateway(open_page: OpenPage, door: Door) -> None:
    page = open_page(door.url)
    page.locator("#token").fill(door.mint(ALL_SCOPES))
    page.keyboard.press("Enter")
    ready(page)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".heat")).to_be_visible()
    page.get_by_role("tab", name="Chat").click()
    for count, transport in enumerate(("sse", "websocket"), 1):
        ask_in_chat(page, "Hello", transport, max_tokens="5")
        expect(page.locator(".turn.assistant .hint")).to_have_count(count)
