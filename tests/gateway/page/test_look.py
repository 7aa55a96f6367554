"""How the page looks: narrow, light, dark; and whether its texts can be read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.gateway.page.conftest import OpenPage
from tests.gateway.page.test_playground import ask_in_chat, ready

LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3 (AA)
# Contrast of each text with what is behind it. Colours are drawn, for they may be written in any space.
CONTRASTS = """() => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const drawn = (...colours) => {
    pen.clearRect(0, 0, 1, 1);
    for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map((each) => each / 255);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((each) => each <= .04045 ? each / 12.92 : ((each + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const seen = element.checkVisibility() && !element.matches(".unseen, .skip, .unseen *");
    if (!seen || !(own || element.value)) continue;
    const behind = [];
    for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const [a, b] = [light(drawn("white", ...behind)), light(drawn(getComputedStyle(element).color))];
    found.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05), element.outerHTML.slice(0, 120)]);
  }
  return found;
}"""


PANELS = ("embedding", "classification", "generation", "problem")


def show(page: Page, panel: str) -> None:
    """Fill a panel; they must be shown in their order."""
    if panel == "embedding":
        page.get_by_role("button", name="Compare").click()
        expect(page.locator(".heat")).to_be_visible()
    elif panel == "classification":
        page.get_by_role("tab", name="Classification").click()
        page.get_by_role("button", name="Classify").click()
        expect(page.locator(".bars")).to_be_visible()
    elif panel == "generation":
        page.get_by_role("tab", name="Chat").click()
        ask_in_chat(page, "A word of " + "thirty-odd-letters-and-more-" * 4, max_tokens="40")
        expect(page.locator(".turn.assistant .hint")).to_be_visible()
    elif panel == "problem":
        ask_in_chat(page, "Hello", "websocket", max_tokens="8000")
        expect(page.locator("#problem")).to_be_visible()


@pytest.mark.parametrize("width", [360, 1100])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_and_within_the_width(
    open_page: OpenPage, open_facade: str, tmp_path: Path, scheme: str, width: int
) -> None:
    page = ready(open_page(open_facade, color_scheme=scheme, viewport={"width": width, "height": 780}))
    for panel in PANELS:
        show(page, panel)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, panel
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 15
        assert [found for found in contrasts if found[0] < LEAST_CONTRAST] == [], panel
        picture = page.screenshot(path=tmp_path / f"{scheme}-{width}-{panel}.png", full_page=True)
        image = Image.open(io.BytesIO(picture)).convert("L")
        colours = image.getcolors(256) or []
        (_, ground), low, high = max(colours), *image.getextrema()
        assert (ground > 200) if scheme == "light" else (ground < 60), "the ground has the scheme's lightness"
        assert high - low > 150, "there is something on it"
        assert (
            sum(count for count, value in colours if abs(value - ground) > 60)
            > 0.01 * image.width * image.height
        )


def test_the_theme_can_be_chosen(open_page: OpenPage, open_facade: str) -> None:
    page = ready(open_page(open_facade, color_scheme="dark"))
    button = page.locator("#theme")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    button.click()
    expect(button).to_have_text("Theme: light")
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    ready(page)
    assert page.evaluate(ground) == light
    button.click()
    assert page.evaluate(ground) == dark
    button.click()
    expect(button).to_have_text("Theme: auto")
    assert page.evaluate("localStorage.length") == 0


def test_motion_is_left_out_where_it_is_not_wanted(open_page: OpenPage, open_facade: str) -> None:
    moving = """() => {
      const turn = document.createElement("article");
      turn.className = "turn";
      turn.setAttribute("aria-busy", "true");
      turn.append(Object.assign(document.createElement("div"), { className: "text" }));
      document.body.append(turn);
      return getComputedStyle(turn.firstChild, "::after").animationName;
    }"""
    assert ready(open_page(open_facade)).evaluate(moving) == "blink"
    assert ready(open_page(open_facade, reduced_motion="reduce")).evaluate(moving) == "none"
