"""The ServingRuntime: how KServe runs this project's model server."""

from __future__ import annotations

from typing import Any

from deploy.deployment import (
    DRAIN_S,
    GRPC_PORT,
    HTTP_PORT,
    METRICS_PORT,
    USER_ID,
    Deployment,
    quantity,
)

# Where KServe mounts what a `storageUri` names.
MODELS = "/mnt/models"
FORMAT = "tritonforge"
# The name by which KServe knows the one that serves.
CONTAINER = "kserve-container"
# Endpoints forget a pod some seconds after it was told to stop; until then it must answer.
SETTLE_S = 5
# Pod Security's level "restricted", container by container: Knative takes no security context of the pod.
SECURITY: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsGroup": USER_ID,
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def serving_runtime(deployment: Deployment, *, knative: bool) -> dict[str, Any]:
    """The runtime of a namespace.

    Args:
        deployment: Image and shared memory are read from it.
        knative: Knative routes to one port, allows no `preStop`, and drains by itself.
    """
    ports: list[dict[str, Any]] = [{"name": "http1", "containerPort": HTTP_PORT, "protocol": "TCP"}]
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": deployment.server_image,
        # Further arguments of the image's entry point, `tritonforge serve`; the last of each counts.
        "args": ["--repository", MODELS, "--exit-timeout", str(DRAIN_S)],
        "ports": ports,
        "startupProbe": _probe("ready", period=5, failures=120),
        "livenessProbe": _probe("live", period=10, failures=3),
        "readinessProbe": _probe("ready", period=5, failures=2),
        "securityContext": SECURITY,
        "volumeMounts": [
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    if not knative:
        ports += [
            {"name": "h2c", "containerPort": GRPC_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ]
        container["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", str(SETTLE_S)]}}}
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": deployment.name, "labels": deployment.labels},
        "spec": {
            "annotations": {
                "prometheus.kserve.io/path": "/metrics",
                "prometheus.kserve.io/port": str(METRICS_PORT),
            },
            # No autoSelect: a service names its runtime, so nobody else's model lands here.
            "supportedModelFormats": [{"name": FORMAT, "version": "1", "autoSelect": False}],
            "protocolVersions": ["v2", "grpc-v2"],
            "multiModel": False,
            "containers": [container],
            "volumes": [
                {
                    "name": "shared-memory",
                    "emptyDir": {"medium": "Memory", "sizeLimit": quantity(deployment.resources.shm_bytes)},
                },
                {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
            ],
        },
    }


def _probe(what: str, *, period: int, failures: int) -> dict[str, Any]:
    """One of Triton's health endpoints."""
    return {
        "httpGet": {"path": f"/v2/health/{what}", "port": HTTP_PORT},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
