"""Wheel and source archive, built once a session from a copy, so that nothing else lying here gets in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
# Any fixed time: archives of the same files are then the same bytes.
EPOCH = {"SOURCE_DATE_EPOCH": "1767225600"}

SECRET = ("docker/secrets/redis.acl", "docker/gateway.env", "deploy/ecs/tls.key")


@dataclass(frozen=True)
class Distributions:
    """What `python -m build` makes of the checkout.

    Attributes:
        source: A folder with the files that git would commit.
        files: Their names; what a link to a folder leads to is there under the link's name too.
        sdist: The source archive.
        wheel: The wheel, built from that archive.
    """

    source: Path
    files: frozenset[str]
    sdist: Path
    wheel: Path


def _committed() -> set[str]:
    """Files and links that git tracks or would add."""
    if not (CHECKOUT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout
    return {name for name in listed.split("\0") if name and os.path.lexists(CHECKOUT / name)}


def _walk(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder, followlinks=True):
        yield from (str((Path(parent) / name).relative_to(folder)) for name in names)


def build(source: Path, into: Path, *options: str) -> None:
    """Run the build frontend, with the setuptools of this environment."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(into), *options, str(source)]
    done = subprocess.run(command, env=os.environ | EPOCH, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    source = tmp_path_factory.mktemp("source")
    for name in _committed():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, source / name, follow_symlinks=False)
    files = frozenset(_walk(source))  # before the build leaves some of its own
    for name in SECRET:  # as they may lie in the checkout that someone releases from
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("secret")
    into = tmp_path_factory.mktemp("dist")
    build(source, into)
    (sdist,), (wheel,) = into.glob("*.tar.gz"), into.glob("*.whl")
    return Distributions(source, files, sdist, wheel)


@pytest.fixture(scope="session")
def installed(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``bin`` of an empty environment that the wheel was installed in, under the lock."""
    environment = tmp_path_factory.mktemp("environment")
    try:
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        command = [str(environment / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-compile", "-c", str(CHECKOUT / "requirements.lock")]
        wanted = f"tritonforge[build,serve,deploy] @ {distributions.wheel.as_uri()}"
        done = subprocess.run([*command, wanted], cwd=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        yield environment / "bin"
    finally:
        shutil.rmtree(environment, ignore_errors=True)  # two gigabytes
