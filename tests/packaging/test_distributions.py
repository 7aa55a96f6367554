"""What lies in the wheel and the source archive, and what their metadata says."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.packaging.conftest import CHECKOUT, SECRET, Distributions, build

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
PACKAGES = [
    pattern.removesuffix("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
]


@pytest.fixture(scope="module")
def names(distributions: Distributions) -> set[str]:
    with zipfile.ZipFile(distributions.wheel) as wheel:
        return set(wheel.namelist())


@pytest.fixture(scope="module")
def metadata(distributions: Distributions) -> Message:
    with zipfile.ZipFile(distributions.wheel) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(wheel.read(name))


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(
    distributions: Distributions, names: set[str]
) -> None:
    ours = {name for name in names if ".dist-info/" not in name}
    wanted = {name for name in distributions.files if name.split("/")[0] in PACKAGES}
    assert wanted - ours == set(), "a data file without a line in [tool.setuptools.package-data]"
    assert ours - wanted == set()


def test_each_package_says_that_it_is_typed(names: set[str]) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= names


def test_packages_are_not_named_like_a_module_that_python_or_a_dependency_has() -> None:
    for package in PACKAGES:
        assert package not in sys.stdlib_module_names
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None
        assert Path(spec.origin).is_relative_to(CHECKOUT), f"{spec.origin} is imported for {package}"


def test_wheel_and_archive_pass_the_index_checks(distributions: Distributions) -> None:
    files = [str(distributions.sdist), str(distributions.wheel)]
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True)
    assert done.returncode == 0, done.stdout.decode()


def test_metadata_is_that_of_the_project(metadata: Message) -> None:
    assert metadata["Name"] == "tritonforge"
    assert metadata["Version"] == PROJECT["project"]["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert set(metadata.get_all("Provides-Extra") or ()) == set(PROJECT["project"]["optional-dependencies"])


def test_the_licence_is_in_both(distributions: Distributions, names: set[str]) -> None:
    licence = (CHECKOUT / "LICENSE").read_bytes()
    assert b"Version 2.0, January 2004" in licence and b"END OF TERMS AND CONDITIONS" in licence
    with zipfile.ZipFile(distributions.wheel) as wheel:
        (name,) = [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
        assert wheel.read(name) == licence
    with tarfile.open(distributions.sdist) as archive:
        stem = distributions.sdist.name.removesuffix(".tar.gz")
        member = archive.extractfile(f"{stem}/LICENSE")
        assert member is not None and member.read() == licence


def test_the_archive_is_the_whole_checkout(distributions: Distributions) -> None:
    stem = distributions.sdist.name.removesuffix(".tar.gz")
    with tarfile.open(distributions.sdist) as archive:
        held = {member.name.removeprefix(f"{stem}/") for member in archive if not member.isdir()}
    assert distributions.files - held == set(), "a file that MANIFEST.in does not name"
    made = {name for name in held if name.startswith("tritonforge.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert held - distributions.files - made == set()


def test_secrets_of_the_checkout_stay_in_it(distributions: Distributions, names: set[str]) -> None:
    with tarfile.open(distributions.sdist) as archive:
        held = archive.getnames()
    for secret in SECRET:
        assert (distributions.source / secret).is_file()
        assert not any(name.endswith(secret) for name in [*held, *names])


def test_the_wheel_is_the_same_bytes_from_archive_and_checkout(
    distributions: Distributions, tmp_path: Path
) -> None:
    build(distributions.source, tmp_path, "--wheel")
    (again,) = tmp_path.glob("*.whl")
    assert again.read_bytes() == distributions.wheel.read_bytes()
