"""Says for each locked package that serving needs whether there is a wheel of it for Linux on arm64.

::

    python tools/arm64.py                     # what `tritonforge serve` needs; or --extra gateway
    python tools/arm64.py --download wheels   # and keep the wheels, to carry them to a device
    python tools/arm64.py --write             # renew the table in docs/edge.md

Each is asked of the package index by ``pip download --only-binary=:all: --platform manylinux..._aarch64``, at
the version of ``requirements.lock``: what pip would install on the device, or refuse to. Status 1 if one is
missing. That a wheel exists does not say that it works there; docs/edge.md says what was tried.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import lock
else:
    from tools import lock

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "edge.md"
BEGIN = "<!-- wheels: written by tools/arm64.py -->"
END = "<!-- end of wheels -->"

GLIBC = 36
"""The device's glibc, 2.36 of Debian 12: wheels for an older one run there, wheels for a newer one do not."""
_PYTHON = "3.11"
_LEGACY = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}


@dataclass(frozen=True)
class Wheel:
    """What the index has of one package.

    Attributes:
        name: Canonical name.
        version: As locked.
        file: File name of the wheel; None if there is none for arm64.
        problem: What pip says where there is none.
    """

    name: str
    version: str
    file: str | None
    problem: str = ""

    @property
    def tags(self) -> frozenset[Tag]:
        """Platforms that the wheel is for; empty without a wheel."""
        return parse_wheel_filename(self.file)[3] if self.file else frozenset()

    @property
    def native(self) -> bool:
        """Whether it holds machine code, so that the platform matters."""
        return any(tag.platform != "any" for tag in self.tags)

    @property
    def glibc(self) -> str:
        """The least glibc that one of its tags asks for; empty where it holds no machine code."""
        minors = [minor for tag in self.tags if (minor := _minor(tag.platform)) is not None]
        return f"2.{min(minors)}" if minors else ""


def platforms() -> list[str]:
    """All platform tags that such a device takes, as pip wants them spelt out."""
    names = [f"manylinux_2_{minor}_aarch64" for minor in range(GLIBC, 16, -1)]
    return [*names, "manylinux2014_aarch64", "linux_aarch64"]


def find(pins: Mapping[str, str], folder: Path, *, keep: bool) -> list[Wheel]:
    """Ask the index for packages.

    Args:
        pins: Version by canonical name.
        folder: Where the wheels go, and pip's report.
        keep: Download them; else only ask, which fetches no more than their metadata.
    """
    try:
        files = _ask_pip(pins, folder, keep=keep)
    except subprocess.CalledProcessError as error:
        if len(pins) > 1:  # pip ends at the first that is missing: each is asked for alone
            return [wheel for name in pins for wheel in find({name: pins[name]}, folder, keep=keep)]
        ((name, version),) = pins.items()
        errors = [line for line in str(error.stderr).splitlines() if line.startswith("ERROR:")]
        return [Wheel(name, version, None, (errors or ["pip failed"])[-1].removeprefix("ERROR: "))]
    return [Wheel(name, version, files[name]) for name, version in pins.items()]


def check(extras: Sequence[str], folder: Path, *, keep: bool = False) -> list[Wheel]:
    """Ask for everything that the extras need.

    Args:
        extras: Of ``pyproject.toml``.
        folder: For wheels and report.
        keep: Download the wheels.

    Raises:
        lock.NotInstalledError: This environment lacks a package, so what it needs is unknown.
    """
    needed = lock.closure(lock.read_project(), extras)
    pins = lock.read_lock()
    return find({name: pins.get(name, version) for name, version in needed.items()}, folder, keep=keep)


def table(wheels: Iterable[Wheel]) -> Iterator[str]:
    """Markdown: a row for each package with machine code or without a wheel, the rest in a sentence."""
    found = list(wheels)
    yield "| package | locked | wheel for arm64 | glibc |"
    yield "| --- | --- | --- | --- |"
    for wheel in found:
        if wheel.native or not wheel.file:
            file = wheel.file or f"**none**: {wheel.problem}"
            yield f"| {wheel.name} | {wheel.version} | {file} | {wheel.glibc} |"
    pure = [f"{wheel.name} {wheel.version}" for wheel in found if wheel.file and not wheel.native]
    yield ""
    yield f"The other {len(pure)} hold no machine code: {', '.join(pure)}."


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Check that serving's dependencies have wheels for arm64.")
    parser.add_argument("--extra", action="append", help="of pyproject.toml; may be repeated; default: serve")
    parser.add_argument("--download", type=Path, metavar="DIR", help="keep the wheels there")
    parser.add_argument("--write", action="store_true", help="renew the table in docs/edge.md")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.download or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            wheels = check(arguments.extra or ["serve"], folder, keep=arguments.download is not None)
        except lock.NotInstalledError as error:
            sys.stderr.write(f"error: {error}\n  mend: pip install -c requirements.lock -e '.[serve]'\n")
            return 2
    lines = list(table(wheels))
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        head, _, rest = page.partition(BEGIN)
        text = f"{head}{BEGIN}\n{chr(10).join(lines)}\n{END}{rest.partition(END)[2]}"
        PAGE.write_text(text, encoding="utf-8")
    if arguments.json:
        lines = [json.dumps([vars(wheel) | {"glibc": wheel.glibc} for wheel in wheels], indent=2)]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    missing = [wheel for wheel in wheels if not wheel.file]
    sys.stderr.writelines(f"no wheel for arm64: {each.name}=={each.version}\n" for each in missing)
    return 1 if missing else 0


def _minor(platform: str) -> int | None:
    """The glibc 2.N that a platform tag asks for; None for ``any``."""
    family, _, rest = platform.partition("_")
    if family in _LEGACY:
        return _LEGACY[family]
    return int(rest.split("_")[1]) if family == "manylinux" else None


def _ask_pip(pins: Mapping[str, str], folder: Path, *, keep: bool) -> dict[str, str]:
    """File name of each package's wheel; CalledProcessError if one has none."""
    report = folder / "report.json"
    # This resolves exactly as `pip download` does, and leaves the wheels where they are.
    command = ["install", "--dry-run", "--ignore-installed", "--target", str(folder), "--report", str(report)]
    if keep:
        command = ["download", "--dest", str(folder)]
    command += ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", _PYTHON]
    command += [word for platform in platforms() for word in ("--platform", platform)]
    command += [f"{name}=={version}" for name, version in pins.items()]
    subprocess.run([sys.executable, "-m", "pip", *command], capture_output=True, text=True, check=True)
    if keep:
        files = [path.name for path in folder.glob("*.whl")]
    else:
        planned = json.loads(report.read_text(encoding="utf-8"))["install"]
        files = [each["download_info"]["url"].rpartition("/")[2] for each in planned]
    return {parse_wheel_filename(file)[0]: file for file in files}


if __name__ == "__main__":
    sys.exit(main())
