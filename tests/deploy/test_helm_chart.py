"""The chart, by Helm's own linter and renderer, the schemas of Kubernetes, and rules that no schema knows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import ValidationError
from typer.main import get_command

from deploy.charts import CHART
from deploy.helm_process import lint
from tests.deploy.helm_support import (
    CASES,
    UNCHECKED,
    VERSIONS,
    Manifest,
    case,
    judge,
    one,
    over,
    pods,
    render,
    rendered,
)
from tritonforge import __version__
from tritonforge.cli import app

# Image volumes are of 1.31, and in its schemas from then on.
IMAGE_VOLUMES = "bare"


def selected(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_versions_reach_from_the_oldest_that_the_chart_takes_to_the_newest_known() -> None:
    assert VERSIONS[0] == "1.28" and len(VERSIONS) >= 10
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == f">={VERSIONS[0]}.0-0"


def test_chart_and_what_it_deploys_have_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert {chart["version"], chart["appVersion"]} == {__version__.partition("+")[0]}


@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
@pytest.mark.parametrize("name", ["", *CASES])
def test_lint_finds_nothing(name: str, version: str) -> None:
    values = case(name) if name else {}
    report = lint(CHART, values, f"v{version}.0")
    assert not report["errors"]
    assert {each["error"] for each in report["messages"]} <= {"icon is recommended"}


@pytest.mark.parametrize("version", VERSIONS)
def test_all_objects_are_what_each_kubernetes_knows(version: str) -> None:
    for manifest in rendered("everything"):
        judge(manifest, version)


@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
@pytest.mark.parametrize("name", [each for each in CASES if each not in ("everything", IMAGE_VOLUMES)])
def test_other_cases_at_both_ends(name: str, version: str) -> None:
    for manifest in rendered(name):
        judge(manifest, version)


@pytest.mark.parametrize("version", [each for each in VERSIONS if each >= "1.31"])
def test_an_image_volume_is_known_from_its_first_version_on(version: str) -> None:
    for manifest in rendered(IMAGE_VOLUMES):
        judge(manifest, version)


def test_an_older_kubernetes_does_not_know_image_volumes() -> None:
    with pytest.raises(ValidationError, match="image"):
        judge(one(rendered(IMAGE_VOLUMES), "Deployment", "-server"), "1.30")


def test_the_judge_finds_what_is_wrong() -> None:
    for kind, name, word in (
        ("Deployment", "-gateway", "replica"),
        ("ServiceMonitor", "-server", "endpoint"),
    ):
        manifest = one(rendered("everything"), kind, name)
        manifest["spec"][word] = 2
        with pytest.raises((ValidationError, AssertionError), match=word):
            judge(manifest, VERSIONS[-1])


def test_what_the_cases_hold() -> None:
    kinds = {each["kind"] for name in CASES for each in rendered(name)}
    assert kinds == {
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "Ingress",
        "NetworkPolicy",
        "Pod",
        "PodDisruptionBudget",
        "PrometheusRule",
        "ScaledObject",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
        *UNCHECKED,
    }


@pytest.mark.parametrize("name", CASES)
def test_pods_meet_the_restricted_standard(name: str) -> None:
    found = list(pods(rendered(name)))
    assert found
    for _, _, spec in found:
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True and pod["runAsUser"] > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not spec.get("hostNetwork") and not spec.get("hostPID")
        assert not any("hostPath" in volume for volume in spec.get("volumes", []))
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", CASES)
def test_containers_have_bounds_and_a_version(name: str) -> None:
    for _, _, spec in pods(rendered(name)):
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
            image = container["image"]
            assert "@sha256:" in image or ":" in image.rpartition("/")[2]
            assert not image.endswith(":latest")


@pytest.mark.parametrize("name", CASES)
def test_what_refers_to_pods_finds_them(name: str) -> None:
    manifests = rendered(name)
    found = list(pods(manifests))
    for each in manifests:
        spec = each.get("spec", {})
        if each["kind"] == "Deployment":
            assert selected(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"])
        elif each["kind"] == "Service":
            ports = {
                port["name"]
                for _, labels, pod in found
                if selected(spec["selector"], labels)
                for container in pod["containers"]
                for port in container.get("ports", [])
            }
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        elif each["kind"] == "NetworkPolicy":
            assert [1 for _, labels, _ in found if selected(spec["podSelector"]["matchLabels"], labels)] == [
                1
            ]
        elif each["kind"] == "PodDisruptionBudget":
            assert any(selected(spec["selector"]["matchLabels"], labels) for _, labels, _ in found)
        elif each["kind"] in ("HorizontalPodAutoscaler", "ScaledObject", "VerticalPodAutoscaler"):
            target = spec.get("scaleTargetRef") or spec["targetRef"]
            assert one(manifests, target["kind"], target["name"])["apiVersion"] == target["apiVersion"]
        elif each["kind"] == "ServiceMonitor":
            services = [
                service
                for service in manifests
                if service["kind"] == "Service"
                and selected(spec["selector"]["matchLabels"], service["metadata"]["labels"])
            ]
            assert len(services) == 1
            assert {end["port"] for end in spec["endpoints"]} <= {
                p["name"] for p in services[0]["spec"]["ports"]
            }


@pytest.mark.parametrize("name", CASES)
def test_peers_and_ports_of_policies_exist(name: str) -> None:
    manifests = rendered(name)
    found = list(pods(manifests))
    for policy in (each for each in manifests if each["kind"] == "NetworkPolicy"):
        own = policy["spec"]["podSelector"]["matchLabels"]
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"][direction]:
                peers = [
                    peer["podSelector"]["matchLabels"] for peer in rule.get(side, []) if "podSelector" in peer
                ]
                for peer in peers:
                    assert any(selected(peer, labels) for _, labels, _ in found) or name == "bare"
                where = peers if direction == "egress" else [own]
                open_ports = {
                    port["name"]
                    for _, labels, pod in found
                    if any(selected(each, labels) for each in where)
                    for container in pod["containers"]
                    for port in container.get("ports", [])
                }
                named = {port["port"] for port in rule["ports"] if isinstance(port["port"], str)}
                assert named <= open_ports


def test_only_gateway_and_prometheus_reach_the_servers() -> None:
    policy = one(rendered("everything"), "NetworkPolicy", "-server")["spec"]
    callers, scrapers = policy["ingress"]
    assert [
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in callers["from"]
    ] == ["gateway"]
    assert {port["port"] for port in callers["ports"]} == {"http", "grpc"}
    assert scrapers["ports"] == [{"port": "metrics"}]
    assert "Egress" in policy["policyTypes"]
    metadata = "169.254.0.0/16"
    for rule in policy["egress"]:
        for peer in rule.get("to", []):
            if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0":
                assert metadata in peer["ipBlock"]["except"]


def _time(manifest: Manifest) -> tuple[int, int, int]:
    """Seconds before SIGTERM, for the drain, and in all."""
    spec = manifest["spec"]["template"]["spec"]
    container = spec["containers"][0]
    sleep = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = next(
        (
            int(each.partition("=")[2])
            for each in container.get("args", [])
            if each.startswith("--exit-timeout=")
        ),
        0,
    )
    return sleep, drain, spec["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", CASES)
def test_a_pod_has_time_to_drain(name: str) -> None:
    manifests = rendered(name)
    sleep, drain, whole = _time(one(manifests, "Deployment", "-server"))
    assert drain >= 30 and whole > sleep + drain
    if name == "bare":
        return
    config = yaml.safe_load(one(manifests, "ConfigMap", "-gateway")["data"]["gateway.yaml"])
    sleep, _, whole = _time(one(manifests, "Deployment", "-gateway"))
    assert whole > sleep + config["resilience"]["drain_s"]


def test_no_server_leaves_before_another_is_ready() -> None:
    for name in ("-server", "-gateway"):
        strategy = one(rendered("minimal"), "Deployment", name)["spec"]["strategy"]
        assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_probes_ask_triton_and_give_it_time() -> None:
    deployment = one(
        render(over(case("minimal"), {"server": {"startTimeoutSeconds": 900}})), "Deployment", "-server"
    )
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    startup, live, ready = (container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness"))
    assert startup["httpGet"] == ready["httpGet"] == {"path": "/v2/health/ready", "port": "http"}
    assert live["httpGet"] == {"path": "/v2/health/live", "port": "http"}
    assert startup["periodSeconds"] * startup["failureThreshold"] > 900
    assert deployment["spec"]["progressDeadlineSeconds"] > 900
    assert "--start-timeout=900" in container["args"]


def test_autoscalers_own_the_number_of_replicas() -> None:
    for name in CASES:
        for deployment in (each for each in rendered(name) if each["kind"] == "Deployment"):
            scaled = [
                each
                for each in rendered(name)
                if each["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
                and each["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
            ]
            assert len(scaled) <= 1
            assert ("replicas" in deployment["spec"]) is not bool(scaled)


def test_servers_scale_on_cpu_memory_and_queue() -> None:
    metrics = one(rendered("everything"), "HorizontalPodAutoscaler", "-server")["spec"]["metrics"]
    assert [each.get("resource", each.get("pods", {}).get("metric"))["name"] for each in metrics] == [
        "cpu",
        "memory",
        "tritonforge_pending_requests",
    ]


def test_recommendations_change_nothing() -> None:
    found = [each for each in rendered("everything") if each["kind"] == "VerticalPodAutoscaler"]
    assert len(found) == 2
    for each in found:
        assert each["apiVersion"] == "autoscaling.k8s.io/v1"
        assert each["spec"]["updatePolicy"] == {"updateMode": "Off"}


def test_a_gpu_is_asked_for_and_found() -> None:
    spec = one(rendered("gpu-keda"), "Deployment", "-server")["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": "NVIDIA-L4"}
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert spec["runtimeClassName"] == "nvidia"
    assert spec["containers"][0]["image"].endswith("-gpu")


def test_a_slice_of_a_gpu_goes_by_its_own_name() -> None:
    values = over(
        case("gpu-keda"), {"server": {"gpu": {"resource": "nvidia.com/mig-1g.10gb", "nodeSelector": {}}}}
    )
    spec = one(render(values), "Deployment", "-server")["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == 1
    assert "nvidia.com/gpu" not in spec["containers"][0]["resources"]["limits"]


@pytest.mark.parametrize("name", CASES)
def test_secrets_are_named_and_never_written(name: str) -> None:
    manifests = rendered(name)
    assert not any(each["kind"] == "Secret" for each in manifests)
    for _, _, spec in pods(manifests):
        for container in spec["containers"]:
            for variable in container.get("env", []):
                secret = "PASSWORD" in variable["name"] or variable["name"].endswith("_URL")
                if secret and "valueFrom" not in variable:
                    assert "$(REDIS_PASSWORD)" in variable["value"]


def test_what_the_servers_run_is_understood_by_serve() -> None:
    """By the real command line's own parser."""
    command: Any = get_command(app)
    for name in CASES:
        container = one(rendered(name), "Deployment", "-server")["spec"]["template"]["spec"]["containers"][0]
        with command.commands["serve"].make_context("serve", list(container["args"])) as context:
            server = case(name).get("server", {})
            assert context.params["exit_timeout"] == server.get("drainSeconds", 30)
            assert list(context.params["load"] or ()) == server.get("models", [])
            assert context.params["engine_threads"] == server.get("engineThreads")
            assert context.params["cache_mib"] == server.get("cacheMiB")


def test_what_fetches_the_repository_is_understood_by_fetch() -> None:
    spec = one(rendered("everything"), "Deployment", "-server")["spec"]["template"]["spec"]
    (fetch,) = spec["initContainers"]
    program, name, *arguments = fetch["command"]
    command: Any = get_command(app)
    assert (program, name) == ("tritonforge", "fetch")
    with command.commands[name].make_context(name, arguments) as context:
        assert str(context.params["into"]) == "/repository/models"
        assert context.params["sha256"] == case("everything")["source"]["url"]["sha256"]
    mounts = {each["mountPath"]: each for each in spec["containers"][0]["volumeMounts"]}
    assert mounts["/models"] == {
        "name": "repository",
        "mountPath": "/models",
        "readOnly": True,
        "subPath": "models",
    }
    assert {"name": "repository", "mountPath": "/repository"} in fetch["volumeMounts"]


def test_what_copies_the_repository_copies_it_also_the_second_time(tmp_path: Path) -> None:
    (copy,) = one(rendered("gpu-keda"), "Deployment", "-server")["spec"]["template"]["spec"]["initContainers"]
    image, volume = tmp_path / "image", tmp_path / "repository"
    (image / "minilm" / "1").mkdir(parents=True)
    (image / "minilm" / "config.pbtxt").write_text("name: 'minilm'")
    volume.mkdir()
    command = [each.replace("/repository", str(volume)) for each in copy["command"]]
    assert command[-1] == "/models"
    for _ in range(2):
        subprocess.run([*command[:-1], str(image)], check=True)
        found = sorted(
            path.relative_to(volume / "models").as_posix() for path in (volume / "models").rglob("*")
        )
        assert found == ["minilm", "minilm/1", "minilm/config.pbtxt"]


def test_names_fit_also_for_the_longest_release() -> None:
    values = over(case("everything"), {"nameOverride": "n" * 60})
    for manifest in json.loads(json.dumps(render(values, release="r" * 53))):
        name = manifest["metadata"]["name"]
        assert len(name) <= 63, name
        assert all(len(str(value)) <= 63 for value in manifest["metadata"]["labels"].values())
        judge(manifest, VERSIONS[-1])
