"""The ECS target by its validators, and what an operator would look for in it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.deployment import Deployment, Resources, Source
from deploy.ecs.collector import collector_config
from deploy.ecs.gateway import gateway_config
from deploy.render import render
from deploy.targets import ecs
from tests.deploy.samples import SHA256, deployment, encoder, generator, on_gpu
from tritonforge.errors import UsageError

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/tritonforge"
TOLD_ELSEWHERE = Source("url", "https://models.example.com/m.tar", SHA256)
DEPLOYMENTS = {
    "one": deployment(),
    "several": deployment(encoder(), generator()),
    "gpu": deployment(on_gpu(), server_image=f"{ECR}/server:1.2.3", gateway_image=f"{ECR}/gateway:1.2.3"),
    "https": deployment(source=TOLD_ELSEWHERE),
    "parameters": deployment(source=Source("local", "model_repository")),
}


def stack(of: Deployment) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(ecs.render(of)["template.yaml"])
    return found


def containers(of: Deployment) -> dict[str, dict[str, Any]]:
    task = stack(of)["Resources"]["TaskDefinition"]["Properties"]
    return {container["Name"]: container for container in task["ContainerDefinitions"]}


def lint(*paths: Path) -> subprocess.CompletedProcess[str]:
    run = [
        str(Path(sys.executable).with_name("cfn-lint")),
        "--include-checks",
        "I",
        "--template",
        *map(str, paths),
    ]
    return subprocess.run(run, capture_output=True, text=True)


def test_cfn_lint_finds_nothing(tmp_path: Path) -> None:
    for name, of in DEPLOYMENTS.items():
        render("ecs", of, tmp_path / name)
    paths = [tmp_path / name / "template.yaml" for name in DEPLOYMENTS]
    done = lint(*paths)
    assert done.returncode == 0, done.stdout
    assert all(path.stat().st_size < 51_200 for path in paths)  # what CloudFormation takes without a bucket


def test_cfn_lint_would_find_something(tmp_path: Path) -> None:
    broken = stack(DEPLOYMENTS["gpu"])
    broken["Resources"]["Service"]["Properties"]["LoadBalancers"][0]["ContainerPort"] = "a door"
    (tmp_path / "template.yaml").write_text(yaml.safe_dump(broken))
    assert lint(tmp_path / "template.yaml").returncode != 0


@pytest.mark.skipif(shutil.which("terraform") is None, reason="no terraform here")
def test_terraform_validates_the_module(tmp_path: Path) -> None:
    render("ecs", DEPLOYMENTS["gpu"], tmp_path / "out")
    for command in (["init", "-input=false"], ["validate"]):
        done = subprocess.run(
            ["terraform", f"-chdir={tmp_path / 'out'}", *command, "-no-color"], capture_output=True, text=True
        )
        if "Failed to query available provider packages" in done.stderr:
            pytest.skip("Terraform's AWS provider cannot be had here, from a registry or a mirror")
        assert done.returncode == 0, done.stdout + done.stderr


def test_containers_can_do_little() -> None:
    for of in DEPLOYMENTS.values():
        for name, container in containers(of).items():
            assert container["User"] == "65532:65532", name
            assert container["ReadonlyRootFilesystem"] is True
            assert container["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}
            assert ":" in container["Image"].rpartition("/")[2]
            assert not container["Image"].endswith(":latest")
            assert container["LogConfiguration"]["LogDriver"] == "awslogs"
        mounts = {name: container.get("MountPoints", []) for name, container in containers(of).items()}
        assert {name for name, found in mounts.items() if any(not m["ReadOnly"] for m in found)} == {
            *("fetch", "configure")
        }


def test_the_order_of_a_start() -> None:
    found = containers(DEPLOYMENTS["one"])
    waits = {
        name: {each["ContainerName"]: each["Condition"] for each in container.get("DependsOn", [])}
        for name, container in found.items()
    }
    assert waits == {
        "fetch": {},
        "configure": {},
        "server": {"fetch": "SUCCESS"},
        "gateway": {"configure": "SUCCESS", "server": "START"},
        "collector": {"server": "START"},
    }
    assert found["server"]["StopTimeout"] > int(found["server"]["Command"][3])


def test_a_gpu_is_asked_for_and_there() -> None:
    of = DEPLOYMENTS["gpu"]
    assert containers(of)["server"]["ResourceRequirements"] == [{"Type": "GPU", "Value": "1"}]
    found = stack(of)
    assert found["Parameters"]["InstanceType"]["Default"].startswith("g6.")
    assert "/gpu/" in found["Parameters"]["ImageId"]["Default"]
    assert "ResourceRequirements" not in containers(DEPLOYMENTS["one"])["server"]
    assert stack(DEPLOYMENTS["one"])["Parameters"]["InstanceType"]["Default"] == "c7i.xlarge"


def test_images_of_ecr_are_the_only_ones_that_may_be_pulled_from_it() -> None:
    def ecr(of: Deployment) -> list[dict[str, Any]]:
        role = stack(of)["Resources"]["ExecutionRole"]["Properties"]["Policies"][0]["PolicyDocument"]
        return [each for each in role["Statement"] if each["Action"][0].startswith("ecr:")]

    assert not ecr(DEPLOYMENTS["one"])
    pull, login = ecr(DEPLOYMENTS["gpu"])
    assert [each["Fn::Sub"].partition("123456789012:")[2] for each in pull["Resource"]] == [
        "repository/tritonforge/gateway",
        "repository/tritonforge/server",
    ]
    assert login["Action"] == ["ecr:GetAuthorizationToken"]


def test_scaling_follows_the_queues_that_the_models_have() -> None:
    def policies(of: Deployment) -> set[str]:
        return {
            name for name in stack(of)["Resources"] if name.endswith("Policy") and name != "DecryptPolicy"
        }

    assert policies(DEPLOYMENTS["one"]) == {"PendingRequestsPolicy", "CpuPolicy"}
    assert policies(DEPLOYMENTS["several"]) == {"PendingRequestsPolicy", "WaitingRequestsPolicy", "CpuPolicy"}
    assert policies(DEPLOYMENTS["gpu"]) == {"PendingRequestsPolicy"}
    resources = stack(DEPLOYMENTS["gpu"])["Resources"]
    metric = resources["PendingRequestsPolicy"]["Properties"]["TargetTrackingScalingPolicyConfiguration"][
        "CustomizedMetricSpecification"
    ]
    config = yaml.safe_load(collector_config(DEPLOYMENTS["gpu"], "large", "/metrics"))
    exporter = config["exporters"]["awsemf"]
    assert metric["Namespace"] == exporter["namespace"]
    assert exporter["metric_declarations"] == [
        {
            "dimensions": [[each["Name"] for each in metric["Dimensions"]]],
            "metric_name_selectors": [metric["MetricName"]],
        }
    ]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")
def test_prometheus_takes_the_scrape_configuration(tmp_path: Path) -> None:
    config = yaml.safe_load(collector_config(DEPLOYMENTS["several"], "service", "/metrics"))
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config["receivers"]["prometheus"]["config"]))
    done = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_gateway_takes_its_configuration(tmp_path: Path) -> None:
    """As the container writes it; Envoy checks what becomes of it."""
    command = containers(DEPLOYMENTS["one"])["configure"]["Command"][0]
    command = command.replace("/var/lib/tritonforge", str(tmp_path))
    environment = {"GATEWAY_YAML": gateway_config(DEPLOYMENTS["one"]), "KEYS_JSON": '{"keys": []}'}
    subprocess.run([sys.executable, "-c", command], env=environment, check=True)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "gateway.yaml": 0o600,
        "keys.json": 0o600,
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tritonforge.cli",
            "gateway",
            "--config",
            tmp_path / "gateway.yaml",
            "--check",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dockerfile", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_images_own_the_folders_that_volumes_take_their_owner_from(dockerfile: str) -> None:
    text = (ROOT / "docker" / dockerfile).read_text().partition("AS runtime")[2]
    assert "install -d -o 65532 -g 65532 /models" in text or "--chown=65532:65532 /srv/models /models" in text
    gateway = (ROOT / "docker/Dockerfile.gateway").read_text()
    assert "install -d -o 65532 -g 65532 -m 0700 /var/lib/tritonforge" in gateway


def test_parameters_that_are_asked_for() -> None:
    def asked(of: Deployment) -> set[str]:
        return {each["ParameterKey"] for each in json.loads(ecs.render(of)["parameters.json"])}

    always = {
        "VpcId",
        "SubnetIds",
        "LoadBalancerSubnetIds",
        "ClientCidr",
        "CertificateArn",
        "ApiKeysSecretArn",
    }
    assert asked(DEPLOYMENTS["one"]) == asked(DEPLOYMENTS["https"]) == always
    assert asked(DEPLOYMENTS["parameters"]) == always | {"ModelBucket", "ModelKey", "ModelSha256"}


def test_models_that_no_task_can_read_are_refused() -> None:
    for source in (Source("pvc", "models"), Source("url", "gs://models/m.tar", SHA256)):
        with pytest.raises(UsageError, match="tasks on ECS cannot read"):
            ecs.render(deployment(source=source))


def test_a_server_that_no_instance_takes_is_refused() -> None:
    giant = Resources(cpu=500, memory_bytes=GIB, shm_bytes=GIB, gpus=0)
    with pytest.raises(UsageError, match="no instance type that is known here has 500"):
        ecs.render(deployment(resources=giant))


def test_two_renderings_are_equal() -> None:
    assert ecs.render(DEPLOYMENTS["several"]) == ecs.render(DEPLOYMENTS["several"])
