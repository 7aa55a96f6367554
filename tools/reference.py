"""Writes the keys of a recipe into ``docs/recipe.md``, from the schema.

Run it after a change of ``tritonforge/recipe``::

    .venv/bin/python tools/reference.py
"""

from __future__ import annotations

from pathlib import Path

from tritonforge.recipe.reference import BEGIN, END, reference

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipe.md"


def main() -> None:
    """Replace what is between the two marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{reference()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
