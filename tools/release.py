"""The version: written once, in ``pyproject.toml``, and repeated where a file cannot ask for it.

    python tools/release.py check              every repetition agrees, and CHANGELOG.md is well formed
    python tools/release.py check --tag v0.2.0 and that tag may be published
    python tools/release.py notes              what CHANGELOG.md says of this version
    python tools/release.py cut 0.2.0          write the version everywhere, and date what is unreleased

Only the standard library is needed, so that a release workflow can run it before anything is installed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_HEADING = re.compile(r"^## (?:\[(?P<name>[^\]]+)\](?: - (?P<date>.+))?|(?P<odd>.+))$", re.MULTILINE)
_KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
_PROJECT = re.compile(r'^version = "([^"]+)"$', re.MULTILINE)
# Repetitions: an image's tag, its label, the chart. Files are searched where someone who deploys meets them.
_REPEATED: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("docker/Dockerfile.*", re.compile(r'image\.version="([^"]+)"')),
    *(
        (files, re.compile(r"\btritonforge(?:[/-][a-z]+)*:(\d+\.\d+\.\d+)"))
        for files in ("docker/**/*", "deploy/**/*", "docs/*.md", "README.md")
    ),
    (
        "deploy/helm/tritonforge/Chart.yaml",
        re.compile(r"^(?:version|appVersion): \"?([^\"\s]+)", re.MULTILINE),
    ),
)


class ReleaseError(Exception):
    """This version cannot be released as it stands."""


@dataclass(frozen=True)
class Section:
    """One version's part of the changelog.

    Attributes:
        name: ``Unreleased`` or the version.
        date: As written, None where there is none.
        body: What stands below the heading.
    """

    name: str
    date: str | None
    body: str


def read_version(root: Path = ROOT) -> str:
    """The version that ``pyproject.toml`` names."""
    with (root / "pyproject.toml").open("rb") as file:
        version: str = tomllib.load(file)["project"]["version"]
    return version


def read_changelog(root: Path = ROOT) -> list[Section]:
    """The sections of ``CHANGELOG.md``, newest first."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    found = list(_HEADING.finditer(text))
    ends = [*(heading.start() for heading in found[1:]), len(text)]
    return [
        Section(heading["name"] or heading["odd"], heading["date"], text[heading.end() : end].strip())
        for heading, end in zip(found, ends, strict=True)
    ]


def problems(root: Path = ROOT, tag: str | None = None) -> list[str]:
    """What keeps this version from being released; with a tag: from being published under it."""
    version = read_version(root)
    found = [] if _VERSION.fullmatch(version) else [f"pyproject.toml: {version} is not MAJOR.MINOR.PATCH"]
    for path, line, said in repetitions(root):
        if said != version:
            found.append(f"{path}:{line}: says {said}, pyproject.toml {version}")
    sections = read_changelog(root)
    found += _changelog_problems(sections)
    if tag is not None:
        found += _tag_problems(tag, version, sections)
    return found


def repetitions(root: Path = ROOT) -> Iterator[tuple[str, int, str]]:
    """File, line and version of every repetition."""
    for path, pattern in _repeating_files(root):
        text = path.read_text(encoding="utf-8")
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start(1)) + 1
            yield str(path.relative_to(root)), line, match[1]


def cut(version: str, root: Path = ROOT, date: str | None = None) -> list[str]:
    """Write a new version everywhere, and make a section of what is unreleased.

    Args:
        version: The new version.
        root: The checkout.
        date: Of the release; default: today, in UTC.

    Returns:
        The files that changed.

    Raises:
        ReleaseError: If the version is not above those released, or nothing is unreleased.
    """
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"{version} is not MAJOR.MINOR.PATCH")
    sections = read_changelog(root)
    released = [section.name for section in sections if section.name != "Unreleased"]
    if released and _order(version) <= _order(released[0]):
        raise ReleaseError(f"{version} is not above {released[0]}")
    if not sections or sections[0].name != "Unreleased" or not sections[0].body:
        raise ReleaseError("CHANGELOG.md: nothing stands under ## [Unreleased]")
    changed = {}
    for path, pattern in [(root / "pyproject.toml", _PROJECT), *_repeating_files(root)]:
        text = changed.get(path, path.read_text(encoding="utf-8"))
        new = pattern.sub(lambda match: _replaced(match, version), text)
        if new != path.read_text(encoding="utf-8"):
            changed[path] = new
    log = root / "CHANGELOG.md"
    today = date or datetime.now(UTC).date().isoformat()
    heading = f"## [Unreleased]\n\n## [{version}] - {today}"
    changed[log] = log.read_text(encoding="utf-8").replace("## [Unreleased]", heading, 1)
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
    return sorted(str(path.relative_to(root)) for path in changed)


def notes(root: Path = ROOT) -> str:
    """What the changelog says of the version in ``pyproject.toml``.

    Raises:
        ReleaseError: If it says nothing.
    """
    version = read_version(root)
    body = next((section.body for section in read_changelog(root) if section.name == version), "")
    if not body:
        raise ReleaseError(f"CHANGELOG.md says nothing of {version}; `python tools/release.py cut` writes it")
    return body + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; status 1 where something is in the way."""
    parser = argparse.ArgumentParser(description="Keep the version and the changelog in step.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say what is in the way of a release")
    check.add_argument("--tag", help="the tag that would be published, for example v0.2.0")
    commands.add_parser("notes", help="print what CHANGELOG.md says of this version")
    cutting = commands.add_parser("cut", help="write a new version everywhere")
    cutting.add_argument("version", help="MAJOR.MINOR.PATCH")
    given = parser.parse_args(arguments)
    try:
        if given.command == "notes":
            sys.stdout.write(notes())
        elif given.command == "cut":
            sys.stdout.writelines(f"{path}\n" for path in cut(given.version))
        elif found := problems(tag=given.tag):
            raise ReleaseError("\n".join(found))
    except ReleaseError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _repeating_files(root: Path) -> Iterator[tuple[Path, re.Pattern[str]]]:
    for files, pattern in _REPEATED:
        for path in sorted(root.glob(files)):
            # Code asks for the version; what stands in its comments are examples.
            if path.is_file() and path.suffix not in {".py", ".pyc"}:
                yield path, pattern


def _replaced(match: re.Match[str], version: str) -> str:
    start, end = match.start(1) - match.start(), match.end(1) - match.start()
    return f"{match[0][:start]}{version}{match[0][end:]}"


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _changelog_problems(sections: list[Section]) -> Iterator[str]:
    """What Keep a Changelog asks for: an Unreleased section first, then falling versions with dates."""
    if not sections or sections[0].name != "Unreleased":
        yield "CHANGELOG.md: the first section is not ## [Unreleased]"
    released = [section for section in sections if section.name != "Unreleased"]
    for section in released:
        if not _VERSION.fullmatch(section.name):
            yield f"CHANGELOG.md: {section.name} is not MAJOR.MINOR.PATCH"
        if section.date is None or not re.fullmatch(r"\d{4}-\d\d-\d\d", section.date):
            yield f"CHANGELOG.md: {section.name} has no date as 2026-01-31"
    numbers = [section.name for section in released if _VERSION.fullmatch(section.name)]
    for newer, older in pairwise(numbers):
        if _order(newer) <= _order(older):
            yield f"CHANGELOG.md: {newer} stands above {older}"
    for section in sections:
        for kind in re.findall(r"^### (.+)$", section.body, re.MULTILINE):
            if kind not in _KINDS:
                yield f"CHANGELOG.md: {section.name}: {kind} is none of {', '.join(sorted(_KINDS))}"


def _tag_problems(tag: str, version: str, sections: list[Section]) -> Iterator[str]:
    if tag != f"v{version}":
        yield f"the tag is {tag}, and pyproject.toml says {version}"
    names = [section.name for section in sections]
    if names[1:2] != [version]:
        yield f"CHANGELOG.md: {version} is not the newest version in it"
    elif not sections[1].body:
        yield f"CHANGELOG.md: nothing stands under {version}"


if __name__ == "__main__":
    sys.exit(main())
