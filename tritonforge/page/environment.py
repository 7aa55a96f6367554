"""Templates of pages: those of one package, in the frame that all share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from tritonforge.page.formats import ABSENT, FILTERS


@cache
def environment(package: str) -> jinja2.Environment:
    """Templates of a package and of this one; everything they print is escaped.

    Args:
        package: Import name of the package whose folder ``templates`` holds the pages.
    """
    frame = jinja2.PackageLoader("tritonforge.page")
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), frame]),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,  # what was not said is left out
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update({name: _tolerant(write) for name, write in FILTERS.items()})
    made.filters["columns"] = columns
    made.tests["plain"] = is_plain
    made.globals["style"] = Markup(frame.get_source(made, "style.css")[0])
    return made


def _tolerant(write: Callable[[Any], str]) -> Callable[[Any], str]:
    """The same filter, which takes what is not there for None."""
    return lambda value: ABSENT if isinstance(value, jinja2.Undefined) else write(value)


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of all rows, in the order in which they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row))


def is_plain(value: Any) -> bool:
    """Whether a figure fits a line: no mapping, and no list of mappings."""
    if isinstance(value, list | tuple):
        return not any(isinstance(inner, Mapping | list | tuple) for inner in value)
    return not isinstance(value, Mapping)
