"""Compose: ``docker/compose.yaml``'s services on one machine, for the models of a deployment."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from deploy.compose import STACK, load_stack, mounted_files
from deploy.deployment import DRAIN_S, USER_ID, Deployment, Source, mebibytes
from deploy.text import to_yaml
from tritonforge.errors import UsageError

# Services of a profile, by the name under which they are rendered; the other profiles' are left out.
SERVER = "triton"
_GPU_SERVER = "triton-gpu"
_OTHERS = ("build-engines",)
_MODELS = "/models"
# The image of docker/Dockerfile.model has the same.
_BUSYBOX = "busybox:1.37.0"


def render(deployment: Deployment) -> dict[str, str]:
    """The compose file, and every file that it mounts.

    Raises:
        UsageError: More servers than one machine is for, a canary, or a source that is a cluster's.
    """
    _check(deployment)
    stack = load_stack()
    services: dict[str, Any] = stack["services"]
    chosen, other = (_GPU_SERVER, SERVER) if deployment.gpu else (SERVER, _GPU_SERVER)
    server = services.pop(chosen)
    for name in (other, *_OTHERS):
        services.pop(name, None)
    server["networks"] = ["inference", "telemetry"]
    _fit(server, deployment)
    added = _bring_models(server, stack, deployment)
    services = {SERVER: server, **services, **added}
    for service in services.values():
        service.pop("profiles", None)
        service.pop("build", None)
    door = services["gateway"]
    door["image"] = deployment.gateway_image
    door["depends_on"] = {
        SERVER: {"condition": "service_healthy"},
        "redis": {"condition": "service_healthy"},
    }
    found = {key: value for key, value in stack.items() if not key.startswith("x-")}
    found |= {"name": deployment.name, "services": services}
    return {STACK: _head(deployment) + to_yaml(found), **mounted_files()}


def _check(deployment: Deployment) -> None:
    """Refuse what is a cluster's."""
    if deployment.replicas > 1:
        raise UsageError(
            f"Compose runs one server on one machine, not {deployment.replicas}",
            where="--replicas",
            mend="leave --replicas out: the one server is given the cores of all; or --target helm",
        )
    if deployment.source.kind == "pvc":
        raise UsageError(
            "a claim is Kubernetes'",
            where="--source",
            mend="give a folder, s3://..., https://... or oci://IMAGE",
        )
    if deployment.canary:
        raise UsageError(
            "Compose divides no requests between repositories",
            where="--canary-source",
            mend="--target kserve",
        )


def _fit(server: dict[str, Any], deployment: Deployment) -> None:
    """Image, arguments and limits of the model server."""
    size = deployment.resources
    server["image"] = deployment.server_image
    load = [argument for part in deployment.parts for argument in ("--load", part)]
    server["command"] = [*server["command"], "--engine-threads", str(deployment.engine_threads), *load]
    server["shm_size"] = f"{mebibytes(size.shm_bytes)}m"
    server["stop_grace_period"] = f"{DRAIN_S + 10}s"
    limits = server["deploy"]["resources"]["limits"]
    limits |= {"cpus": f"{size.cpu:g}", "memory": f"{mebibytes(size.memory_bytes)}m"}
    for reservation in server["deploy"]["resources"].get("reservations", {}).get("devices", []):
        reservation["count"] = size.gpus


def _bring_models(server: dict[str, Any], stack: dict[str, Any], deployment: Deployment) -> dict[str, Any]:
    """Mount the repository; services that run before the server, where it has to be brought."""
    source = deployment.source
    if source.kind == "local":
        folder = Path(source.value).expanduser().absolute()
        server["volumes"] = [{"type": "bind", "source": str(folder), "target": _MODELS, "read_only": True}]
        return {}
    # Another repository is another volume: nothing of the last one is left in it.
    digest = hashlib.sha256(f"{source.value} {source.sha256}".encode()).hexdigest()[:12]
    volume = f"models-{digest}"
    stack["volumes"][volume] = {}
    mount = {"type": "volume", "source": volume, "target": _MODELS}
    server["volumes"] = [{**mount, "read_only": True}]
    server["depends_on"] = {"fetch-models": {"condition": "service_completed_successfully"}}
    hardened: dict[str, Any] = {
        key: server[key] for key in ("read_only", "cap_drop", "security_opt", "logging") if key in server
    }
    own: dict[str, Any] = {
        **hardened,
        "image": _BUSYBOX,
        # A new volume is root's. This gives it away, and may do nothing else.
        "command": ["chown", f"{USER_ID}:{USER_ID}", _MODELS],
        "user": "0:0",
        "cap_add": ["CHOWN"],
        "network_mode": "none",
        "restart": "no",
        "volumes": [mount],
        "deploy": {"resources": {"limits": {"cpus": "0.5", "memory": "64m", "pids": 16}}},
    }
    fetch = {
        **hardened,
        **_fetch(source, deployment, mount),
        "user": f"{USER_ID}:{USER_ID}",
        "restart": "no",
        "tmpfs": ["/tmp:size=64m,mode=1777"],
        "depends_on": {"own-models": {"condition": "service_completed_successfully"}},
        "deploy": {"resources": {"limits": {"cpus": "1", "memory": "512m", "pids": 64}}},
    }
    return {"own-models": own, "fetch-models": fetch}


def _fetch(source: Source, deployment: Deployment, mount: dict[str, Any]) -> dict[str, Any]:
    """What fills the volume."""
    if source.kind == "oci":
        # The image copies its /models where it is told to (docker/Dockerfile.model).
        target = "/target"
        return {
            "image": source.value,
            "command": [f"{target}/"],
            "network_mode": "none",
            "volumes": [{**mount, "target": target}],
        }
    verify = ["--sha256", source.sha256] if source.sha256 else []
    return {
        "image": deployment.server_image,
        "entrypoint": ["tritonforge", "fetch", source.value, "--into", _MODELS, *verify],
        "networks": ["front"],
        "volumes": [mount],
        # Credentials of the bucket, as AWS_ACCESS_KEY_ID and the like; the file may be absent.
        "env_file": [{"path": "secrets/source.env", "required": False}],
    }


def _head(deployment: Deployment) -> str:
    names = ", ".join(model.name for model in deployment.models)
    return f"""\
# Rendered by tritonforge {deployment.version} for {names}. Render again rather than change it.
#   python compose_secrets.py
#   docker compose up --wait
"""
