"""Prints how large an environment is, a line for each distribution, and what the image comes to.

``/opt/venv/bin/python docker/size.py`` counts the environment that runs it; MB are 10^6 bytes, as ``docker
images`` counts. Only what lies on the disk counts, so it can be run before and after ``slim.py``.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

# python:3.11-slim-bookworm, unpacked, on x86_64. An assumption on the safe side: `docker images` says it.
BASE_MB = 150


def main() -> int:
    """Command line; status 1 if the image comes out larger than ``--limit``."""
    parser = argparse.ArgumentParser(description="Count the bytes of this environment.")
    parser.add_argument("--base", type=float, default=BASE_MB, help="size of the base image in MB")
    parser.add_argument("--limit", type=float, help="largest allowed image in MB")
    arguments = parser.parse_args()
    sizes = sorted(measure().items(), key=lambda item: -item[1])
    for name, count in sizes:
        sys.stdout.write(f"{count / 1e6:8.1f} MB  {name}\n")
    installed = sum(count for _, count in sizes) / 1e6
    total = installed + arguments.base
    for size, what in ((installed, "installed"), (arguments.base, "base image, assumed"), (total, "image")):
        sys.stdout.write(f"{size:8.1f} MB  {what}\n")
    if arguments.limit is not None and total > arguments.limit:
        sys.stderr.write(f"error: {total:.0f} MB, and {arguments.limit:.0f} MB are allowed\n")
        return 1
    return 0


def measure(packages: Path | None = None) -> dict[str, int]:
    """Return the bytes on the disk by distribution.

    Args:
        packages: A ``site-packages`` folder; by default those of this interpreter.
    """
    found = distributions(path=[str(packages)]) if packages else distributions()
    return {f"{each.name} {each.version}": _size(each) for each in found}


def _size(distribution: Distribution) -> int:
    paths = (Path(str(distribution.locate_file(file))) for file in distribution.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
