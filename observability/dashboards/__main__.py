"""Writes the dashboards as Grafana's JSON: ``python -m observability.dashboards [--check]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from observability.dashboards import BOARDS, FOLDER
from tritonforge.console import console
from tritonforge.files import replace_text


def render() -> dict[str, str]:
    """The JSON of every dashboard, by file name; the same code gives the same text."""
    texts = {}
    for make in BOARDS:
        board = make()
        built = json.dumps(board.build(), cls=JSONEncoder, indent=2, ensure_ascii=False)
        texts[f"{board.name}.json"] = f"{built}\n"
    return texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or compare them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m observability.dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the JSON files are")
    options = parser.parse_args(arguments)
    texts = render()
    stale = [path for path in sorted(options.folder.glob("*.json")) if path.name not in texts]
    differing = [
        options.folder / name
        for name, text in texts.items()
        if not (options.folder / name).exists() or (options.folder / name).read_text("utf-8") != text
    ]
    if options.check:
        for path in (*differing, *stale):
            console.print(f"{path} is not what the code makes: run python -m observability.dashboards")
        return 1 if differing or stale else 0
    options.folder.mkdir(parents=True, exist_ok=True)
    for path in differing:
        replace_text(path, texts[path.name])
    for path in stale:
        path.unlink()
    console.print(f"{len(texts)} dashboards in {options.folder}, {len(differing)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
