"""What the tests of the Helm chart share: its renders, and the schemas that they are held against."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from kubernetes_validate import utils
from packaging.version import Version

from deploy.charts import CHART
from deploy.deployment import Deployment, Resources, ServedModel, Source
from deploy.helm_process import render_files

OLDEST = Version("1.28")
# Each is there twice, strict and not.
VERSIONS = tuple(
    sorted({each.rpartition(".")[0] for each in utils.all_versions() if Version(each) >= OLDEST}, key=Version)
)
# It reads the definitions of a version, some megabytes, anew for each object.
utils.schema_contents = cache(utils.schema_contents)
CASES = tuple(sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml")))
# Kinds that an extension of Kubernetes brings, and where its own types for them are.
EXTENSIONS = {
    "ScaledObject": "cloudcoil.models.keda.v1alpha1",
    "ServiceMonitor": "cloudcoil.models.prometheus_operator.v1",
    "PrometheusRule": "cloudcoil.models.prometheus_operator.v1",
}
# No schema of it is published as a package.
UNCHECKED = {"VerticalPodAutoscaler"}

Manifest = dict[str, Any]


def case(name: str) -> dict[str, Any]:
    """Values of a case in the chart's ``ci`` folder."""
    found: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())
    return found


def over(*layers: dict[str, Any]) -> dict[str, Any]:
    """Values over values."""
    found: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = found.get(key)
            found[key] = over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return found


def render(values: dict[str, Any], release: str = "minilm", namespace: str = "inference") -> list[Manifest]:
    """All objects, test hooks too."""
    files = render_files(CHART, values, release, namespace)
    return [each for path, text in files.items() if path.endswith(".yaml") for each in documents(text)]


@cache
def _rendered(name: str) -> str:
    return json.dumps(render(case(name)))


def rendered(name: str) -> list[Manifest]:
    """All objects of a case."""
    found: list[Manifest] = json.loads(_rendered(name))
    return found


def documents(text: str) -> Iterator[Manifest]:
    """Documents of a YAML text that hold something."""
    yield from (each for each in yaml.safe_load_all(text) if each)


def one(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """The only object of a kind, whose name ends so."""
    found = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
    assert len(found) == 1, [(each["kind"], each["metadata"]["name"]) for each in manifests]
    return found[0]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Name, labels and specification of every pod."""
    for each in manifests:
        name = each["metadata"]["name"]
        if each["kind"] == "Pod":
            yield name, each["metadata"]["labels"], each["spec"]
        elif "template" in each.get("spec", {}):
            template = each["spec"]["template"]
            yield name, template["metadata"]["labels"], template["spec"]


def judge(manifest: Manifest, version: str) -> None:
    """Hold an object against the schema of its kind; keys that it does not know are errors too."""
    kind = manifest["kind"]
    if kind in UNCHECKED:
        return
    if kind in EXTENSIONS:
        understood = getattr(import_module(EXTENSIONS[kind]), kind).model_validate(
            manifest
        )  # seconds to import
        # These types pass over what they do not know: what is lost on the way was not known.
        kept = understood.model_dump(by_alias=True, exclude_unset=True, mode="json")
        assert kept == manifest, f"{kind}: keys that it does not know; {_lost(manifest, kept)}"
        return
    kubernetes_validate.validate(manifest, version, strict=True)


def _lost(given: Manifest, kept: Manifest) -> list[str]:
    """What of the specification was not kept."""
    return sorted(given["spec"].keys() - kept["spec"].keys())


def deployment(
    source: Source | None = None, *, gpus: int = 0, tasks: tuple[str, ...] = ("embedding",)
) -> Deployment:
    """A deployment of a model for each task."""
    models = tuple(
        ServedModel(
            name=f"model{index}",
            task=task,
            engine="tensorrt" if gpus else "onnxruntime",
            gpu=bool(gpus),
            parts=(f"model{index}", f"model{index}_engine"),
            recipe=Path("recipes/minilm.yaml"),
            memory_bytes=1 << 30,
            disk_bytes=2 << 30,
        )
        for index, task in enumerate(tasks)
    )
    return Deployment(
        name="search",
        models=models,
        resources=Resources(cpu=2.5, memory_bytes=3 << 30, shm_bytes=256 << 20, gpus=gpus),
        replicas=2,
        max_replicas=5,
        engine_threads=2,
        source=source or Source("url", "s3://models/search.tar", "0123456789abcdef" * 4),
        server_image="registry.example.com:5000/tritonforge:1.2.3-cpu",
        gateway_image="registry.example.com:5000/tritonforge:1.2.3-gateway",
        version="1.2.3",
    )
