"""The task: fetch the models, write the gateway's files; then server, gateway and collector."""

from __future__ import annotations

from typing import Any

from deploy.deployment import DRAIN_S, USER_ID, Deployment, mebibytes
from deploy.ecs.collector import IMAGE, collector_config
from deploy.ecs.gateway import DOOR_PORT, FOLDER, gateway_config
from deploy.ecs.parameters import model_url
from deploy.ecs.values import Value, attribute, ref, sub

MODELS = "/models"
MIB = 1 << 20
GATEWAY_MIB = 768
COLLECTOR_MIB = 256
FETCH_MIB = 512
CONFIGURE_MIB = 128
_GATEWAY_CPU = 0.5
_COLLECTOR_CPU = 0.0625
# A repository of some GB, from S3 in the same region.
_FETCH_S = 900
# ECS' longest; it counts after that.
_START_S = 300
# Beyond the drain: models are unloaded, then the process ends.
_STOP_S = DRAIN_S + 30
# What comes as environment becomes files, which only this task's user may read.
_CONFIGURE = (
    "import os, pathlib; os.umask(0o077); "
    f"folder = pathlib.Path('{FOLDER}'); "
    "[(folder / name).write_text(os.environ[key]) "
    "for name, key in (('gateway.yaml', 'GATEWAY_YAML'), ('keys.json', 'KEYS_JSON'))]"
)
_HEALTH = ["CMD", "python3", "/opt/tritonforge/healthcheck.py"]


def task_cpu(deployment: Deployment) -> float:
    """Cores of all containers."""
    return deployment.resources.cpu + _GATEWAY_CPU + _COLLECTOR_CPU


def task_memory(deployment: Deployment) -> int:
    """Bytes of all containers: ECS sets aside what those that end have had, too."""
    beside = GATEWAY_MIB + COLLECTOR_MIB + FETCH_MIB + CONFIGURE_MIB
    return deployment.resources.memory_bytes + beside * MIB


def task_definition(deployment: Deployment) -> Value:
    """The ``AWS::ECS::TaskDefinition``."""
    return {
        "Type": "AWS::ECS::TaskDefinition",
        "Properties": {
            "Family": ref("AWS::StackName"),
            # Not Fargate: it has no GPU, and its /dev/shm, through which Triton's backends pass tensors, is
            # fixed at 64 MiB.
            "RequiresCompatibilities": ["EC2"],
            "NetworkMode": "awsvpc",
            "RuntimePlatform": {"CpuArchitecture": "X86_64", "OperatingSystemFamily": "LINUX"},
            "TaskRoleArn": attribute("TaskRole", "Arn"),
            "ExecutionRoleArn": attribute("ExecutionRole", "Arn"),
            "Volumes": [_volume("models"), _volume("gateway")],
            "ContainerDefinitions": [
                _fetch(deployment),
                _configure(deployment),
                _server(deployment),
                _gateway(deployment),
                _collector(deployment),
            ],
        },
    }


def _fetch(deployment: Deployment) -> Value:
    """Models, verified, before the server starts."""
    arguments = [model_url(deployment.source), "--into", MODELS, "--sha256", ref("ModelSha256")]
    return _container("fetch", deployment.server_image, FETCH_MIB) | {
        "Essential": False,
        "EntryPoint": ["tritonforge", "fetch"],
        "Command": arguments,
        "Environment": [_variable("AWS_REGION", ref("AWS::Region")), _variable("HOME", "/tmp")],
        "MountPoints": [_mount("models", MODELS)],
        "StartTimeout": _FETCH_S,
    }


def _configure(deployment: Deployment) -> Value:
    """The gateway's files: ECS has no configuration files of its own."""
    return _container("configure", deployment.gateway_image, CONFIGURE_MIB) | {
        "Essential": False,
        "EntryPoint": ["python3", "-c"],
        "Command": [_CONFIGURE],
        "Environment": [_variable("GATEWAY_YAML", gateway_config(deployment))],
        "Secrets": [{"Name": "KEYS_JSON", "ValueFrom": ref("ApiKeysSecretArn")}],
        "MountPoints": [_mount("gateway", FOLDER)],
    }


def _server(deployment: Deployment) -> Value:
    """The server; it is told its threads, as it cannot see shares of a CPU."""
    resources = deployment.resources
    container = _container("server", deployment.server_image, mebibytes(resources.memory_bytes)) | {
        "Essential": True,
        "Cpu": round(resources.cpu * 1024),
        "Command": [
            "--engine-threads",
            str(deployment.engine_threads),
            "--exit-timeout",
            str(DRAIN_S),
            "--log-format",
            "json",
        ],
        "DependsOn": [{"ContainerName": "fetch", "Condition": "SUCCESS"}],
        "MountPoints": [_mount("models", MODELS, read_only=True)],
        "HealthCheck": _health(*_HEALTH, start=_START_S),
        "StopTimeout": _STOP_S,
    }
    container["LinuxParameters"] |= {"SharedMemorySize": mebibytes(resources.shm_bytes)}
    if resources.gpus:
        container["ResourceRequirements"] = [{"Type": "GPU", "Value": str(resources.gpus)}]
    return container


def _gateway(deployment: Deployment) -> Value:
    """The front door: the one port that the load balancer may reach."""
    return _container("gateway", deployment.gateway_image, GATEWAY_MIB) | {
        "Essential": True,
        "Cpu": round(_GATEWAY_CPU * 1024),
        "Command": ["--config", f"{FOLDER}/gateway.yaml"],
        "DependsOn": [
            {"ContainerName": "configure", "Condition": "SUCCESS"},
            # A stop goes the other way: the gateway drains before the server does.
            {"ContainerName": "server", "Condition": "START"},
        ],
        "MountPoints": [_mount("gateway", FOLDER, read_only=True)],
        "PortMappings": [{"ContainerPort": DOOR_PORT, "Protocol": "tcp", "Name": "door"}],
        "HealthCheck": _health(*_HEALTH, f"http://127.0.0.1:{DOOR_PORT}/health", start=30),
        "StopTimeout": _STOP_S,
    }


def _collector(deployment: Deployment) -> Value:
    """Queue depth to CloudWatch. A task serves without it: if it ends, it alone is started anew."""
    config = collector_config(deployment, "${AWS::StackName}", "${MetricsLogGroup}")
    return _container("collector", IMAGE, COLLECTOR_MIB) | {
        "Essential": False,
        "Cpu": round(_COLLECTOR_CPU * 1024),
        "Environment": [
            _variable("AOT_CONFIG_CONTENT", sub(config)),
            _variable("AWS_REGION", ref("AWS::Region")),
        ],
        "DependsOn": [{"ContainerName": "server", "Condition": "START"}],
        "RestartPolicy": {"Enabled": True, "RestartAttemptPeriod": 60},
    }


def _container(name: str, image: str, memory_mib: int) -> dict[str, Any]:
    """What all have: no root, no capabilities, nothing to write to but /tmp, and logs that never block."""
    return {
        "Name": name,
        "Image": image,
        "Memory": memory_mib,
        "User": f"{USER_ID}:{USER_ID}",
        "ReadonlyRootFilesystem": True,
        "LinuxParameters": {
            "InitProcessEnabled": True,
            "Capabilities": {"Drop": ["ALL"]},
            "Tmpfs": [
                {"ContainerPath": "/tmp", "Size": 64, "MountOptions": ["mode=1777", "nosuid", "nodev"]}
            ],
        },
        "LogConfiguration": {
            "LogDriver": "awslogs",
            "Options": {
                "awslogs-group": ref("LogGroup"),
                "awslogs-region": ref("AWS::Region"),
                "awslogs-stream-prefix": "task",
                "mode": "non-blocking",
                "max-buffer-size": "25m",
            },
        },
    }


def _volume(name: str) -> Value:
    """Of the task, gone with it. As Docker's own volume it takes its owner from the folder of the image."""
    return {"Name": name, "DockerVolumeConfiguration": {"Scope": "task", "Driver": "local"}}


def _mount(volume: str, path: str, *, read_only: bool = False) -> Value:
    return {"SourceVolume": volume, "ContainerPath": path, "ReadOnly": read_only}


def _variable(name: str, value: Value) -> Value:
    return {"Name": name, "Value": value}


def _health(*command: str, start: int) -> Value:
    return {"Command": list(command), "Interval": 10, "Timeout": 5, "Retries": 3, "StartPeriod": start}
