"""InferenceServices: one for each model, or one for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deploy.deployment import DRAIN_S, Deployment, Resources, ServedModel, Source, cpu_quantity, quantity
from deploy.kserve.runtime import CONTAINER, FORMAT, MODELS, SECURITY, SETTLE_S
from tritonforge.errors import UsageError

# An idle server stays for a while: a start takes the download and the load of the models.
RETENTION = "10m"
# Requests that a server has at once before Knative starts another, and that wait before KEDA does: half a
# batch of 64, the recipe's default.
TARGET_REQUESTS = 32
CPU_PERCENT = 70
_GIB = 1 << 30


@dataclass(frozen=True)
class Service:
    """One InferenceService to be.

    Attributes:
        name: Its name.
        models: That it serves.
        resources: Of one server.
        replicas: At least so many.
        max_replicas: At most.
        threads: Of each engine instance.
    """

    name: str
    models: tuple[ServedModel, ...]
    resources: Resources
    replicas: int
    max_replicas: int
    threads: int


def one_for_each(deployment: Deployment) -> list[Service]:
    """A service for each model, sized on its own."""
    ratio = deployment.max_replicas / deployment.replicas
    services = []
    for model in deployment.models:
        single = len(deployment.models) == 1
        resources = deployment.resources if single or model.alone is None else model.alone
        replicas = deployment.replicas if single else model.replicas
        threads = deployment.engine_threads if single else max(1, int(resources.cpu) // model.instances)
        services.append(
            Service(
                name=model.label,
                models=(model,),
                resources=resources,
                replicas=replicas,
                max_replicas=max(replicas + 1, round(replicas * ratio)),
                threads=threads,
            )
        )
    return services


def one_for_all(deployment: Deployment) -> Service:
    """One service with every model."""
    return Service(
        name=deployment.name,
        models=deployment.models,
        resources=deployment.resources,
        replicas=deployment.replicas,
        max_replicas=deployment.max_replicas,
        threads=deployment.engine_threads,
    )


def inference_service(deployment: Deployment, service: Service, *, knative: bool) -> dict[str, Any]:
    """The object.

    Args:
        deployment: What it belongs to.
        service: What it serves.
        knative: Scales to zero by Knative; else a plain Deployment with an HPA.
    """
    mode = {"serving.kserve.io/deploymentMode": "Knative" if knative else "Standard"}
    annotations = {
        **mode,
        **(
            {
                "autoscaling.knative.dev/scale-to-zero-pod-retention-period": RETENTION,
                "serving.knative.dev/progress-deadline": "600s",
            }
            if knative
            # A CPU that waits for its GPU says nothing: by hand, until the queue can be seen.
            else {"serving.kserve.io/autoscalerClass": "none" if service.resources.gpus else "hpa"}
        ),
    }
    predictor: dict[str, Any] = {
        "minReplicas": 0 if knative else service.replicas,
        "maxReplicas": service.max_replicas,
        **scale_metric(service, knative=knative),
        "serviceAccountName": deployment.name,
        # What a cloud needs to tell who asks is mounted by the cloud; the API server is not asked.
        "automountServiceAccountToken": False,
        **_placement(service, knative=knative),
    }
    if not knative:
        predictor |= {
            "deploymentStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "terminationGracePeriodSeconds": SETTLE_S + DRAIN_S + 10,
            "topologySpreadConstraints": [
                _spread(service.name, key)
                for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
            ],
        }
    model: dict[str, Any] = {
        "modelFormat": {"name": FORMAT, "version": "1"},
        "runtime": deployment.name,
        "protocolVersion": "v2",
        "args": [
            *(argument for item in service.models for part in item.parts for argument in ("--load", part)),
            "--engine-threads",
            str(service.threads),
        ],
        "resources": _resources(service.resources),
    }
    predictor["model"] = model
    _add_repository(predictor, deployment.source, deployment, service)
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": service.name, "labels": deployment.labels, "annotations": annotations},
        "spec": {"predictor": predictor},
    }


def canary(deployment: Deployment, service: Service, source: Source, percent: int) -> dict[str, Any]:
    """One item of `spec.canary`: the stable predictor with another repository, as KServe merges them."""
    predictor: dict[str, Any] = {"name": "canary", "minReplicas": 1}
    predictor["model"] = {
        # KServe 0.20's schema wants a name here, though none in the stable predictor.
        "name": CONTAINER,
        "modelFormat": {"name": FORMAT, "version": "1"},
        "runtime": deployment.name,
    }
    _add_repository(predictor, source, deployment, service)
    return {"predictor": predictor, "trafficPercent": percent}


def _add_repository(
    predictor: dict[str, Any], source: Source, deployment: Deployment, service: Service
) -> None:
    """Bring the model repository into the pod."""
    model = predictor["model"]
    if source.kind == "pvc":
        model["storageUri"] = f"pvc://{source.value}"
    elif source.kind == "oci":
        model["storageUri"] = f"oci://{source.value}"
    elif source.kind == "url":
        # Not KServe's own initializer: it would unpack the archive without looking at its digest.
        volume = {"name": "repository", "mountPath": MODELS}
        model["volumeMounts"] = [{**volume, "readOnly": True}]
        predictor["volumes"] = [
            {"name": "repository", "emptyDir": {"sizeLimit": quantity(_disk(deployment.models))}}
        ]
        predictor["initContainers"] = [_fetch(source, deployment, volume)]
    else:
        raise UsageError(
            f"a cluster cannot read {source.value}, a folder of this machine",
            where="--source",
            mend="tritonforge pack --output models.tar, put it into a bucket, and give --source s3://... "
            "--sha256 ...; or pvc://CLAIM, or oci://IMAGE",
        )


def _fetch(source: Source, deployment: Deployment, volume: dict[str, Any]) -> dict[str, Any]:
    """The init container that fetches and verifies."""
    verify = ["--sha256", source.sha256] if source.sha256 else []
    return {
        "name": "fetch-models",
        "image": deployment.server_image,
        "command": ["tritonforge", "fetch", source.value, "--into", MODELS, *verify],
        # Credentials of a bucket, where the cloud's own identity does not open it; the secret may be absent.
        "envFrom": [{"secretRef": {"name": f"{deployment.name}-source", "optional": True}}],
        "resources": {
            "requests": {"cpu": "500m", "memory": "256Mi"},
            "limits": {"cpu": "2", "memory": "512Mi"},
        },
        "securityContext": SECURITY,
        "volumeMounts": [volume, {"name": "tmp", "mountPath": "/tmp"}],
    }


def _disk(models: Sequence[ServedModel]) -> int:
    """Archive and unpacked files side by side, and room for a larger version."""
    return 3 * sum(model.disk_bytes for model in models) + _GIB


def _resources(size: Resources) -> dict[str, Any]:
    """Memory is limited, since beyond it the node is at stake; cores are not: a start may use idle ones."""
    memory = quantity(size.memory_bytes)
    requests: dict[str, Any] = {"cpu": cpu_quantity(size.cpu), "memory": memory}
    limits: dict[str, Any] = {"memory": memory}
    if size.gpus:
        requests["nvidia.com/gpu"] = limits["nvidia.com/gpu"] = str(size.gpus)
    return {"requests": requests, "limits": limits}


def _placement(service: Service, *, knative: bool) -> dict[str, Any]:
    """Nodes that can run it; the GPU labels are those of NVIDIA's operator.

    Knative refuses node selectors unless its administrator allows them, so there only a GPU asks for one.
    """
    if service.resources.gpus:
        return {
            "nodeSelector": {"kubernetes.io/arch": "amd64", "nvidia.com/gpu.present": "true"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        }
    return {} if knative else {"nodeSelector": {"kubernetes.io/arch": "amd64"}}


def scale_metric(service: Service, *, knative: bool) -> dict[str, Any]:
    """What the mode's own autoscaler goes by, if it does."""
    if knative:
        return {"scaleMetric": "concurrency", "scaleTarget": TARGET_REQUESTS}
    return {} if service.resources.gpus else {"scaleMetric": "cpu", "scaleTarget": CPU_PERCENT}


def _spread(name: str, key: str) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"serving.kserve.io/inferenceservice": name}},
    }
