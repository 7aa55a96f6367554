"""Makes the schemas beside this file from a checkout of KServe at a tag.

    python tests/deploy/crds/shrink.py CHECKOUT v0.20.0

Descriptions are left out, and a part that stands twice (KServe repeats the schema of a pod some twenty times)
is written once, as a YAML anchor. Nothing else is changed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

KINDS = ("inferenceservices", "servingruntimes")
HEADER = """# Schemas of KServe {tag}, https://github.com/kserve/kserve, commit {commit}, config/crd/full.
# The KServe Authors, Apache License 2.0. Shortened by shrink.py: no descriptions, repeats as anchors.
"""


def main(checkout: Path, tag: str) -> None:
    seen: dict[str, Any] = {}
    schemas = {}
    for kind in KINDS:
        crd = yaml.safe_load(git(checkout, "show", f"{tag}:config/crd/full/serving.kserve.io_{kind}.yaml"))
        for version in crd["spec"]["versions"]:
            name = f"{crd['spec']['group']}/{version['name']}/{crd['spec']['names']['kind']}"
            schemas[name] = shrunk(version["schema"]["openAPIV3Schema"], seen)
    commit = git(checkout, "rev-parse", f"{tag}^{{commit}}").strip()
    text = HEADER.format(tag=tag, commit=commit) + yaml.safe_dump(schemas, width=4000)
    (Path(__file__).parent / f"kserve-{tag}.yaml").write_text(text, encoding="utf-8")


def shrunk(node: Any, seen: dict[str, Any], *, names: bool = False) -> Any:
    """Without descriptions; equal parts as one object, which YAML writes as an anchor.

    Args:
        node: A schema, or what is in one.
        seen: Parts so far.
        names: Whether the keys are names of properties, one of which may be `description`.
    """
    if isinstance(node, list):
        return [shrunk(item, seen) for item in node]
    if not isinstance(node, dict):
        return node
    found = {
        key: shrunk(value, seen, names=key == "properties" and not names)
        for key, value in node.items()
        if names or key != "description"
    }
    return seen.setdefault(json.dumps(found, sort_keys=True), found)


def git(checkout: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(checkout), *arguments], check=True, capture_output=True, text=True
    ).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
