"""KServe: folders of manifests, each of which ``kubectl apply -k`` takes as it is."""

from __future__ import annotations

from typing import Any

from deploy.deployment import Deployment
from deploy.kserve.overlays import (
    canary_patches,
    knative_canary_patches,
    kustomization,
    pod_monitor,
    queue_patches,
)
from deploy.kserve.readme import readme
from deploy.kserve.runtime import serving_runtime
from deploy.kserve.service import Service, inference_service, one_for_all, one_for_each
from deploy.text import to_yaml

_CANARY_PERCENT = 10


def render(deployment: Deployment) -> dict[str, str]:
    """Every folder; ``README.md`` among them says which is for what.

    Raises:
        UsageError: The models lie where no cluster can read them, or two services would share a name.
    """
    services = one_for_each(deployment)
    folders: dict[str, dict[str, dict[str, Any]]] = {
        "standard": _servers(deployment, services, knative=False),
        "queue-depth": {
            "kustomization": kustomization(["../standard", "../monitoring"], queue_patches(services))
        },
        "monitoring": {
            "kustomization": kustomization(["podmonitor.yaml"]),
            "podmonitor": pod_monitor(deployment),
        },
        "knative": _servers(deployment, services, knative=True),
        "knative-canary": {
            "kustomization": kustomization(
                ["../knative"],
                knative_canary_patches(
                    services, deployment.canary.percent if deployment.canary else _CANARY_PERCENT
                ),
            )
        },
    }
    if deployment.canary:
        folders["canary"] = {
            "kustomization": kustomization(
                ["../standard"], canary_patches(deployment, services, deployment.canary)
            )
        }
    if len(deployment.models) > 1:
        folders["multi-model"] = _servers(deployment, [one_for_all(deployment)], knative=False)
    files = {
        f"{folder}/{name}.yaml": to_yaml(content)
        for folder, contents in folders.items()
        for name, content in contents.items()
    }
    return {"README.md": readme(deployment, list(folders)), **files}


def _servers(deployment: Deployment, services: list[Service], *, knative: bool) -> dict[str, dict[str, Any]]:
    """Runtime, account and services."""
    objects: dict[str, dict[str, Any]] = {
        "serviceaccount": {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": deployment.name, "labels": deployment.labels},
            "automountServiceAccountToken": False,
        },
        "servingruntime": serving_runtime(deployment, knative=knative),
        **{
            f"inferenceservice-{service.name}": inference_service(deployment, service, knative=knative)
            for service in services
        },
    }
    return {"kustomization": kustomization([f"{name}.yaml" for name in objects]), **objects}
