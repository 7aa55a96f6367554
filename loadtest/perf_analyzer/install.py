"""Brings NVIDIA's perf_analyzer into a folder of its own, on new and on old glibc.

::

    python -m loadtest.perf_analyzer.install

The wheel's binary needs glibc 2.38. Where the system's is older (Debian 12 has 2.36, Ubuntu 22.04
2.35), pip refuses the wheel and finds only an empty placeholder. Then the wheel is fetched by its
platform tag, and the C and C++ libraries of the distribution's next release are unpacked beside it,
with the release's own loader to run it. Nothing of the system is touched.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from loadtest.errors import LoadTestError

VERSION = "2.60.0"
DEFAULT_CACHE = Path("build/tools/perf_analyzer")

_NEEDED_GLIBC = (2, 38)
_LIBRARIES = ("libc6", "libstdc++6", "libgcc-s1", "libssl3t64", "zlib1g")
# The release with a new enough glibc, and the keys that sign it.
_NEXT_RELEASE = {
    "debian": ("trixie", "/usr/share/keyrings/debian-archive-keyring.gpg"),
    "ubuntu": ("noble", "/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
}
_TIMEOUT_S = 600

_DIRECT = """#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/bin/perf_analyzer" "$@"
"""
_THROUGH_LOADER = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
lib=$here/root/usr/lib/x86_64-linux-gnu
exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib:/lib/x86_64-linux-gnu" "$here/bin/perf_analyzer" "$@"
"""


def install(cache: Path = DEFAULT_CACHE) -> Path:
    """Install perf_analyzer, unless it is there already.

    Args:
        cache: Folder to install into. It is filled under another name and renamed when complete.

    Returns:
        The absolute path of a script that runs perf_analyzer with the arguments it is given.

    Raises:
        LoadTestError: The machine is no x86-64 Linux, a tool that this needs is missing, a download
            failed, or the result does not run.
    """
    target = cache.resolve() / VERSION
    launcher = target / "perf_analyzer"
    if launcher.is_file():
        return launcher
    glibc = glibc_version()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".installing-") as folder:
        work = Path(folder)
        result = work / "result"
        (result / "bin").mkdir(parents=True)
        _fetch_binary(work, result / "bin" / "perf_analyzer")
        script = result / "perf_analyzer"
        if glibc >= _NEEDED_GLIBC:
            script.write_text(_DIRECT)
        else:
            _fetch_libraries(work, result / "root")
            script.write_text(_THROUGH_LOADER)
        script.chmod(0o755)
        _run([str(script), "--version"], "perf_analyzer does not start", mend="see the output above")
        try:
            result.rename(target)
        except OSError:
            if not launcher.is_file():  # somebody else may have been faster
                raise
    return launcher


def glibc_version() -> tuple[int, int]:
    """Return the version of this system's C library.

    Raises:
        LoadTestError: There is no perf_analyzer for this system.
    """
    name = os.confstr("CS_GNU_LIBC_VERSION") if sys.platform == "linux" else None
    match = re.fullmatch(r"glibc (\d+)\.(\d+).*", name or "")
    if match is None or platform.machine() != "x86_64":
        system = f"{platform.system()} {platform.machine()}"
        raise LoadTestError(
            f"perf_analyzer is published for x86-64 Linux with glibc only, and this is {system}",
            mend="use locust, or run perf_analyzer on another machine and give --grpc-url or --http-url",
        )
    return int(match[1]), int(match[2])


def mirrors(release_uris: str, codename: str) -> list[str]:
    """Find the archives that serve a release, in what ``apt-get update --print-uris`` writes.

    Args:
        release_uris: Output of apt-get.
        codename: The system's own release, such as ``bookworm``.

    Returns:
        Base URIs, in apt's order, without repetition.
    """
    found = re.findall(rf"^'(\S+?)/dists/{re.escape(codename)}/InRelease'", release_uris, re.MULTILINE)
    return list(dict.fromkeys(found))


def _fetch_binary(work: Path, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--platform", "manylinux_2_38_x86_64"]
    command += ["--python-version", "3.12", "--dest", str(work), f"perf-analyzer=={VERSION}"]
    _run(
        command,
        f"pip could not download perf-analyzer {VERSION}",
        mend="check the network and pip's index; if pip itself is missing: python -m ensurepip",
    )
    wheel = next(work.glob("perf_analyzer-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        target.write_bytes(archive.read("perf_analyzer/bin/perf_analyzer"))
    target.chmod(0o755)


def _fetch_libraries(work: Path, root: Path) -> None:
    system = platform.freedesktop_os_release()
    if system["ID"] not in _NEXT_RELEASE:
        raise LoadTestError(
            f"glibc is older than 2.38, and newer libraries can be had on Debian and Ubuntu only, "
            f"not on {system.get('PRETTY_NAME', system['ID'])}",
            mend="run it on a system with glibc 2.38, or use locust",
        )
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise LoadTestError(f"{tool} is not installed", mend=f"install {tool}, or use locust")
    suite, keyring = _NEXT_RELEASE[system["ID"]]
    if not Path(keyring).is_file():
        raise LoadTestError(
            f"the archive's keys are missing: {keyring}",
            mend=f"apt-get install {Path(keyring).stem}",
        )
    failure: LoadTestError | None = None
    for mirror in _own_mirrors(work, system["VERSION_CODENAME"]):
        try:
            packages = _download_packages(work, f"deb [signed-by={keyring}] {mirror} {suite} main")
        except LoadTestError as error:
            failure = error  # another vendor's archive with the same codename, perhaps
            continue
        for package in packages:
            _run(
                ["dpkg-deb", "-x", str(package), str(root)], f"cannot unpack {package.name}", mend="try again"
            )
        return
    raise failure or LoadTestError(
        "apt knows no mirror of this distribution", mend="add one to /etc/apt/sources.list.d"
    )


def _own_mirrors(work: Path, codename: str) -> list[str]:
    # An empty folder of lists makes apt print what it would fetch, from either format of sources.
    lists = work / "no-lists"
    (lists / "partial").mkdir(parents=True)
    output = _run(
        ["apt-get", "update", "--print-uris", "-o", f"Dir::State::lists={lists}"],
        "apt-get cannot read its sources",
        mend="make `apt-get update` work",
    )
    return mirrors(output, codename)


def _download_packages(work: Path, source: str) -> list[Path]:
    tree = Path(tempfile.mkdtemp(dir=work))
    for folder in ("state/lists/partial", "cache/archives/partial", "debs"):
        (tree / folder).mkdir(parents=True)
    (tree / "sources.list").write_text(f"{source}\n")
    (tree / "status").touch()
    options = {
        "Dir::Etc::sourcelist": tree / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": tree / "state",
        "Dir::State::status": tree / "status",
        "Dir::Cache": tree / "cache",
        # As root, apt downloads as the user _apt, who may not write here.
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "APT::Architecture": "amd64",
    }
    apt = ["apt-get", "-q", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    mend = "check the network, and that the mirror in apt's sources carries this release"
    _run([*apt, "update"], f"apt-get could not read {source}", mend=mend)
    _run(
        [*apt, "download", *_LIBRARIES],
        f"apt-get could not download from {source}",
        mend=mend,
        cwd=tree / "debs",
    )
    return sorted((tree / "debs").glob("*.deb"))


def _run(command: Sequence[str], what: str, *, mend: str, cwd: Path | None = None) -> str:
    """Run a command and return its output; a failure becomes an error that shows the last lines."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise LoadTestError(f"{what}: {error}", mend=mend) from error
    except subprocess.TimeoutExpired as error:
        raise LoadTestError(f"{what}: no end after {_TIMEOUT_S} s", mend=mend) from error
    if done.returncode != 0:
        tail = "\n".join(done.stdout.strip().splitlines()[-5:])
        raise LoadTestError(f"{what}:\n{tail}", mend=mend)
    return done.stdout


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{install(*map(Path, sys.argv[1:2]))}\n")
    except LoadTestError as failure:
        sys.exit(str(failure))
