"""Writes ``requirements.lock``: the versions that this environment was tested with.

Run it in a fresh environment with every extra installed, once the tests pass there::

    python -m venv .venv
    .venv/bin/pip install -e '.[build,serve,demo,rtx,gateway,loadtest,docs,dev]'
    .venv/bin/python tools/lock.py            # or --check: say what differs, change nothing

The lock is a pip constraints file, not a list of requirements: it says which version, and the extras of
``pyproject.toml`` say which packages.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"

_HEADER = """\
# Constraints: the versions that the tests ran with, on Linux x86_64 and Python {python}.
# Install with: pip install -c requirements.lock -e '.[build,serve,demo,rtx,gateway,loadtest,docs,dev]'
# Written by tools/lock.py (`make lock`) from an environment resolved afresh. Do not edit by hand.
# No hashes, and no local version labels: torch's wheel differs between indexes (2.13.0, 2.13.0+cpu).
"""


class NotInstalledError(Exception):
    """A package that the project asks for is missing here, so its version is unknown."""


def closure(project: Mapping[str, Any], extras: Iterable[str]) -> dict[str, str]:
    """Walk what the project and its extras need, through the metadata of what is installed.

    Args:
        project: The table ``[project]`` of ``pyproject.toml``. It is read rather than the metadata of the
            installed project, which is as old as the last ``pip install -e``.
        extras: Names of the project's extras.

    Returns:
        Public version by canonical name, the project itself left out.

    Raises:
        NotInstalledError: A needed package is not in this environment.
    """
    own = canonicalize_name(project["name"])
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(own, "", own), *((own, extra, own) for extra in extras)]
    while queue:
        name, extra, asked_by = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        if name == own:
            needs = _own_requirements(project, extra)
        else:
            try:
                found = distribution(name)
            except PackageNotFoundError:
                raise NotInstalledError(f"{name}, which {asked_by} needs, is not installed") from None
            versions[name] = Version(found.version).public
            needs = _requirements(found.requires or (), extra)
        for need in needs:
            child = canonicalize_name(need.name)
            queue += [(child, each, name) for each in ("", *need.extras)]
    return dict(sorted(versions.items()))


def read_lock(path: Path = LOCK) -> dict[str, str]:
    """Return the locked version by canonical name."""
    pins = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[name] = version
    return pins


def read_project() -> dict[str, Any]:
    """Return the table ``[project]`` of ``pyproject.toml``."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    return project


def main() -> int:
    """Write the lock, or compare with ``--check``; status 1 if it differs or something is missing."""
    parser = argparse.ArgumentParser(description="Write requirements.lock from this environment.")
    parser.add_argument("--check", action="store_true", help="only say what differs from the lock")
    arguments = parser.parse_args()
    project = read_project()
    try:
        versions = closure(project, project["optional-dependencies"])
    except NotInstalledError as error:
        sys.stderr.write(f"error: {error}\n  mend: install every extra first, see the top of tools/lock.py\n")
        return 1
    if arguments.check:
        differences = list(_differences(read_lock(), versions))
        sys.stderr.writelines(f"{line}\n" for line in differences)
        return 1 if differences else 0
    pins = "".join(f"{name}=={version}\n" for name, version in versions.items())
    LOCK.write_text(_HEADER.format(python=platform.python_version()) + pins, encoding="utf-8")
    return 0


def _own_requirements(project: Mapping[str, Any], extra: str) -> Iterator[Requirement]:
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    # Markers of ours are rare, but hold here as they do for everyone else.
    return _requirements(lines, "")


def _requirements(lines: Iterable[str], extra: str) -> Iterator[Requirement]:
    """Parse requirements, and keep those that hold on this machine with ``extra`` (none: '')."""
    for line in lines:
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            yield need


def _differences(locked: Mapping[str, str], installed: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*locked, *installed}):
        if locked.get(name) != installed.get(name):
            yield f"{name}: locked {locked.get(name, 'not')}, installed {installed.get(name, 'not')}"


if __name__ == "__main__":
    sys.exit(main())
