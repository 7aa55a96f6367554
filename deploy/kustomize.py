"""Plain manifests for kustomize, rendered from the chart: a base, and components for what can be switched.

A component is the difference between two renders: objects that are new, JSON patches to those that
changed, and deletions. So what the chart can switch, an overlay can switch too, and nothing is written twice.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from deploy.charts import Manifest
from deploy.text import to_yaml

_API = "kustomize.config.k8s.io"
_CONFIG = "gateway.yaml"
_CHECKSUM = "checksum/config"


def base(manifests: Sequence[Manifest]) -> dict[str, str]:
    """The files of a base.

    The gateway's configuration is a file of its own, of which kustomize makes a ConfigMap named after its
    content. So another configuration means other pods, as with the chart's checksum.

    Args:
        manifests: What the chart renders.
    """
    objects, config = _split([_plain(manifest) for manifest in manifests])
    files = {_file(each): to_yaml(each) for each in objects}
    kustomization: dict[str, Any] = {
        "apiVersion": f"{_API}/v1beta1",
        "kind": "Kustomization",
        "resources": sorted(files),
    }
    if config is not None:
        name, text, labels = config
        files[_CONFIG] = text
        generator = {"name": name, "files": [_CONFIG], "options": {"labels": labels}}
        kustomization["configMapGenerator"] = [generator]
    return {"kustomization.yaml": to_yaml(kustomization), **files}


def component(before: Sequence[Manifest], after: Sequence[Manifest]) -> dict[str, str]:
    """The files of a component that leads from one render to another.

    Args:
        before: As the base is rendered.
        after: With the component's values.
    """
    old_objects, old_config = _split([_plain(manifest) for manifest in before])
    new_objects, new_config = _split([_plain(manifest) for manifest in after])
    old = {_key(each): each for each in old_objects}
    new = {_key(each): each for each in new_objects}
    files = {_file(new[key]): to_yaml(new[key]) for key in sorted(new.keys() - old.keys())}
    kustomization: dict[str, Any] = {"apiVersion": f"{_API}/v1alpha1", "kind": "Component"}
    if files:
        kustomization["resources"] = sorted(files)
    if new_config is not None and old_config is not None and new_config[1] != old_config[1]:
        files[_CONFIG] = new_config[1]
        replaced = {"name": new_config[0], "behavior": "replace", "files": [_CONFIG]}
        kustomization["configMapGenerator"] = [replaced]
    patches = [
        *(_deletion(old[key]) for key in sorted(old.keys() - new.keys())),
        *(
            {"target": _target(old[key]), "patch": to_yaml(operations)}
            for key in sorted(old.keys() & new.keys())
            if (operations := list(_operations(old[key], new[key])))
        ),
    ]
    if patches:
        kustomization["patches"] = patches
    return {"kustomization.yaml": to_yaml(kustomization), **files}


def _plain(manifest: Manifest) -> Manifest:
    """Without what only says that Helm installed it."""
    found = copy.deepcopy(manifest)
    labels = found["metadata"]["labels"]
    labels.pop("helm.sh/chart", None)
    labels["app.kubernetes.io/managed-by"] = "kustomize"
    template = found.get("spec", {}).get("template", {}).get("metadata", {})
    annotations = template.get("annotations", {})
    annotations.pop(_CHECKSUM, None)
    if "annotations" in template and not annotations:
        del template["annotations"]
    labelled = template.get("labels", {})
    labelled.pop("helm.sh/chart", None)
    labelled.pop("app.kubernetes.io/managed-by", None)
    return found


def _split(
    manifests: Sequence[Manifest],
) -> tuple[list[Manifest], tuple[str, str, dict[str, str]] | None]:
    """Objects, and name, text and labels of the gateway's configuration."""
    objects: list[Manifest] = []
    config = None
    for each in manifests:
        if each["kind"] == "ConfigMap" and _CONFIG in each["data"]:
            config = (each["metadata"]["name"], each["data"][_CONFIG], each["metadata"]["labels"])
        else:
            objects.append(each)
    return objects, config


def _operations(old: Any, new: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """JSON patch (RFC 6902) that leads from one to the other; lists are replaced whole."""
    for key in sorted(old.keys() | new.keys()):
        where = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in new:
            yield {"op": "remove", "path": where}
        elif key not in old:
            yield {"op": "add", "path": where, "value": new[key]}
        elif isinstance(old[key], dict) and isinstance(new[key], dict):
            yield from _operations(old[key], new[key], where)
        elif isinstance(old[key], list) and isinstance(new[key], list):
            yield from _list_operations(old[key], new[key], where)
        elif old[key] != new[key]:
            yield {"op": "replace", "path": where, "value": new[key]}


def _list_operations(old: list[Any], new: list[Any], path: str) -> Iterator[dict[str, Any]]:
    """Appends where nothing else changed, so that two components may both append; else the parts, or all."""
    if old == new:
        return
    if new[: len(old)] == old:
        yield from ({"op": "add", "path": f"{path}/-", "value": value} for value in new[len(old) :])
    elif len(old) == len(new) and all(isinstance(each, dict) for each in (*old, *new)):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _operations(one, other, f"{path}/{index}")
    else:
        yield {"op": "replace", "path": path, "value": new}


def _deletion(manifest: Manifest) -> dict[str, Any]:
    gone = {
        "$patch": "delete",
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": {"name": manifest["metadata"]["name"]},
    }
    return {"patch": to_yaml(gone)}


def _target(manifest: Manifest) -> dict[str, str]:
    return {"kind": manifest["kind"], "name": manifest["metadata"]["name"]}


def _key(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _file(manifest: Manifest) -> str:
    kind, name = _key(manifest)
    return f"{kind.lower()}-{name}.yaml"
