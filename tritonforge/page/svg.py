"""Figures of matplotlib as SVG that lives inside a page: its colours, its fonts, its ids."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape

# Drawn in these colours, each of which becomes a variable of the page's style sheet, so that a plot
# follows the reader's dark or light scheme.
INK, MUTED, LINE, PAPER, BAD = "#010101", "#020202", "#030303", "#040404", "#050505"
SERIES = ("#060601", "#060602", "#060603", "#060604", "#060605", "#060606")
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    PAPER: "--paper",
    BAD: "--bad",
    **{color: f"--series-{number}" for number, color in enumerate(SERIES, 1)},
}
_WIDTHS = {"wide": 860, "narrow": 330}  # CSS pixels; a telephone's 360 less the margins
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: the reader's font, found by search
    "svg.hashsalt": "tritonforge",  # the same figure gives the same page
    "text.parse_math": False,  # a `$` in a name is a `$`
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 1,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 12,
}

Draw = Callable[[Any, bool], None]


def plot(name: str, title: str, description: str, height: int, draw: Draw, narrow_height: int = 0) -> Markup:
    """Draw a figure twice, for wide and for narrow pages, as HTML.

    Args:
        name: Prefix of all ids; unique in the page.
        title: Short name of the figure, read out.
        description: What the figure shows, read out in its place.
        height: CSS pixels of the wide form.
        draw: Draws into an empty ``matplotlib.figure.Figure``; the second argument says if it is narrow.
        narrow_height: CSS pixels of the narrow form; the same height by default.

    Returns:
        Two ``svg`` elements, of which the style sheet shows one.
    """
    import matplotlib
    from matplotlib.figure import Figure  # half a second: only where there is something to draw

    forms = []
    for form, width in _WIDTHS.items():
        high = height if form == "wide" else narrow_height or height
        with matplotlib.rc_context(_STYLE):
            figure = Figure(figsize=(width / 72, high / 72), layout="constrained")
            draw(figure, form == "narrow")
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg")
        forms.append(_inline(drawn.getvalue(), f"{name}-{form}", form, title, description))
    return Markup("\n").join(forms)


def _inline(drawn: str, prefix: str, form: str, title: str, description: str) -> Markup:
    """Strip what a page does not want, make the ids its own, and say what is shown."""
    root = ET.fromstring(drawn)
    _, _, width, height = root.attrib["viewBox"].split()
    for parent in list(root.iter()):
        parent.tag = _local(parent.tag)
        for child in list(parent):
            # The style rule would hold for the whole page.
            if _local(child.tag) in {"metadata", "style"}:
                parent.remove(child)
    links = {_local(key): key for node in root.iter("use") for key in node.attrib if _local(key) == "href"}
    used = set(re.findall(r"(?:url\(#|href=\")#?([\w.-]+)", drawn))
    for node in root.iter():
        for key in links.values():
            if key in node.attrib:
                node.attrib["href"] = f"#{prefix}-{node.attrib.pop(key).removeprefix('#')}"
        if (name := node.attrib.pop("id", None)) in used:
            node.attrib["id"] = f"{prefix}-{name}"
        for key in {"clip-path", "style"} & set(node.attrib):
            node.attrib[key] = node.attrib[key].replace("url(#", f"url(#{prefix}-")
        if "style" in node.attrib:
            node.attrib["style"] = _style(node.attrib["style"])
    inner = "".join(ET.tostring(child, encoding="unicode") for child in root)
    return Markup(
        f'<svg class="{form}" role="img" aria-labelledby="{prefix}-title {prefix}-desc" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<title id="{prefix}-title">{escape(title)}</title>'
        f'<desc id="{prefix}-desc">{escape(description)}</desc>{inner}</svg>'
    )


def _local(name: str) -> str:
    """A name without its namespace, which an HTML parser supplies."""
    return name.rpartition("}")[2]


def _style(style: str) -> str:
    """Colours become variables; the font is the page's."""
    style = re.sub(r"font-family:[^;]*;?\s*", "", style)
    return re.sub(r"#0\d0\d0\d", lambda match: f"var({_VARIABLES.get(match[0], '--ink')})", style)
