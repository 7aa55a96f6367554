"""What is laid over a folder of services: a canary, and scaling by what waits in Triton's queues."""

from __future__ import annotations

from typing import Any

import yaml

from deploy.deployment import METRICS_PORT, Canary, Deployment
from deploy.kserve.service import CPU_PERCENT, TARGET_REQUESTS, Service, canary, scale_metric
from tritonforge.errors import UsageError

# The Prometheus operator's own service; another Prometheus: change it in the one place that names it.
PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"


def kustomization(resources: list[str], patches: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A ``kustomization.yaml``."""
    found: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
    }
    if patches:
        found["patches"] = patches
    return found


def canary_patches(deployment: Deployment, services: list[Service], wanted: Canary) -> list[dict[str, Any]]:
    """Standard mode: further servers with the new repository, and a share of the requests for them."""
    if wanted.source.kind != deployment.source.kind:
        raise UsageError(
            f"is of kind {wanted.source.kind}, and --source of kind {deployment.source.kind}: KServe lays "
            "one over the other",
            where="--canary-source",
            mend="give both in the same way",
        )
    return [
        _patch(
            service,
            [
                {
                    "op": "add",
                    "path": "/spec/canary",
                    "value": [canary(deployment, service, wanted.source, wanted.percent)],
                }
            ],
        )
        for service in services
    ]


def knative_canary_patches(services: list[Service], percent: int) -> list[dict[str, Any]]:
    """Knative: the newest revision gets a share, the one that was rolled out before gets the rest."""
    return [
        _patch(service, [{"op": "add", "path": "/spec/predictor/canaryTrafficPercent", "value": percent}])
        for service in services
    ]


def queue_patches(services: list[Service]) -> list[dict[str, Any]]:
    """KEDA: servers by the requests that wait in Triton, which rise before the CPUs tell anything."""
    return [_patch(service, _queue(service)) for service in services]


def _queue(service: Service) -> list[dict[str, Any]]:
    pods = f'pod=~"{service.name}-predictor-.*"'
    metrics: list[dict[str, Any]] = [
        {
            "type": "External",
            "external": {
                "metric": {
                    "backend": "prometheus",
                    "serverAddress": PROMETHEUS,
                    "query": f"sum(nv_inference_pending_request_count{{{pods}}})",
                },
                "target": {"type": "Value", "value": str(TARGET_REQUESTS)},
            },
        }
    ]
    if not service.resources.gpus:
        utilization = {"type": "Utilization", "averageUtilization": CPU_PERCENT}
        metrics.append({"type": "Resource", "resource": {"name": "cpu", "target": utilization}})
    autoscaler = "/metadata/annotations/serving.kserve.io~1autoscalerClass"
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 300}}
    return [
        {"op": "replace", "path": autoscaler, "value": "keda"},
        # KServe refuses these beside KEDA's.
        *({"op": "remove", "path": f"/spec/predictor/{key}"} for key in scale_metric(service, knative=False)),
        {
            "op": "add",
            "path": "/spec/predictor/autoScaling",
            "value": {"metrics": metrics, "behavior": behavior},
        },
    ]


def pod_monitor(deployment: Deployment) -> dict[str, Any]:
    """What the Prometheus operator scrapes the servers by."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": deployment.name, "labels": deployment.labels},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/instance": deployment.name}},
            "podMetricsEndpoints": [{"portNumber": METRICS_PORT, "path": "/metrics", "interval": "15s"}],
        },
    }


def _patch(service: Service, operations: list[dict[str, Any]]) -> dict[str, Any]:
    """A JSON patch, since lists of custom resources are replaced and not merged."""
    return {
        "target": {"group": "serving.kserve.io", "kind": "InferenceService", "name": service.name},
        "patch": yaml.safe_dump(operations, sort_keys=False),
    }
