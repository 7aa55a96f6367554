"""Kubernetes: the Helm chart with a deployment's values, and the same as base and overlays for kustomize."""

from __future__ import annotations

from typing import Any

from deploy.charts import Manifest, chart_files, render_chart
from deploy.deployment import DRAIN_S, Deployment, Source, cpu_quantity, quantity
from deploy.kustomize import base, component
from deploy.targets.helm_readme import readme
from deploy.text import to_yaml
from tritonforge.errors import UsageError

# The longest that a streamed answer may last (gateway.yaml, resilience.stream_timeout_s).
STREAM_S = 600
# The archive, what it unpacks to, and the next version's growth.
_ROOM = 3

NAMESPACE = "tritonforge"
# Requests that wait, a server, above which there are too few servers: half a batch of 16.
PENDING = 8

# Name to namespace and components.
OVERLAYS = {
    "development": (f"{NAMESPACE}-development", ("single",)),
    "production": (NAMESPACE, ("monitoring", "queue")),
}

Values = dict[str, Any]


def render(deployment: Deployment) -> dict[str, str]:
    """The files of a Kubernetes deployment.

    Args:
        deployment: What to deploy.

    Returns:
        Relative path to text: ``chart/tritonforge`` with ``values.yaml`` and ``values-monitoring.yaml``;
        ``kustomize`` with base, components and overlays; ``prometheus-adapter.yaml``; ``README.md``.

    Raises:
        UsageError: The source cannot be reached from a cluster, or Helm's library is missing.
    """
    values = values_of(deployment)
    switches = components(deployment)
    plain = {**values, "gateway": {**values["gateway"], "fullServiceNames": False}}

    def rendered(*more: Values) -> tuple[Manifest, ...]:
        return render_chart(_merged(plain, *more), deployment.name, NAMESPACE)

    files = {
        "README.md": readme(deployment, NAMESPACE),
        "values.yaml": _HEAD.format(version=deployment.version) + to_yaml(values),
        "values-monitoring.yaml": _MONITORING_HEAD
        + to_yaml(_merged(switches["monitoring"], switches["queue"], switches["vpa"])),
    }
    files |= {f"chart/tritonforge/{path}": text for path, text in chart_files().items()}
    files["prometheus-adapter.yaml"] = files["chart/tritonforge/files/prometheus-adapter.yaml"]
    before = rendered()
    files |= {f"kustomize/base/{path}": text for path, text in base(before).items()}
    for name, switch in switches.items():
        made = component(before, rendered(switch))
        files |= {f"kustomize/components/{name}/{path}": text for path, text in made.items()}
    return files | _overlays()


def values_of(deployment: Deployment) -> Values:
    """The chart's values for a deployment; keys and passwords are Secrets of the user's."""
    size = deployment.resources
    drain = STREAM_S if deployment.generates else DRAIN_S
    memory = quantity(size.memory_bytes)
    scaling: Values = {"minReplicas": deployment.replicas, "maxReplicas": deployment.max_replicas}
    if deployment.gpu:
        # A CPU that waits for its GPU says nothing: by hand, until the queue can be seen.
        scaling = {"kind": "none", **scaling}
    server: Values = {
        "image": _image(deployment.server_image),
        "replicas": deployment.replicas,
        "models": list(deployment.parts),
        "engineThreads": deployment.engine_threads,
        "resources": {
            "requests": {"cpu": cpu_quantity(size.cpu), "memory": memory},
            "limits": {"memory": memory},
        },
        "shmSize": quantity(size.shm_bytes),
        "drainSeconds": drain,
        "autoscaling": scaling,
    }
    if deployment.gpu:
        server["gpu"] = {"enabled": True, "count": size.gpus}
    return {
        "fullnameOverride": deployment.name,
        "source": _source(deployment),
        "server": server,
        "gateway": {
            "image": _image(deployment.gateway_image),
            "drainSeconds": drain,
            "apiKeys": {"secretName": f"{deployment.name}-keys"},
        },
    }


def components(deployment: Deployment) -> dict[str, Values]:
    """What can be switched on, each by values of the chart."""
    gpu = {"cpuUtilization": None} if deployment.gpu else {}
    return {
        "keda": {
            "server": {
                "autoscaling": {
                    "kind": "keda",
                    "pendingRequests": PENDING,
                    "keda": {"prometheus": "http://prometheus-operated.monitoring.svc:9090"},
                    **gpu,
                }
            }
        },
        "monitoring": {
            "monitoring": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
        },
        "queue": {"server": {"autoscaling": {"kind": "hpa", "pendingRequests": PENDING, **gpu}}},
        "shared-limits": {
            "redis": {"enabled": True, "auth": {"secretName": f"{deployment.name}-redis"}},
            "gateway": {"config": {"limits": {"shared": {"requests_per_minute": 600}}}},
        },
        "single": {
            "server": {"replicas": 1, "autoscaling": {"kind": "none"}, "pdb": {"enabled": False}},
            "gateway": {"replicas": 1, "autoscaling": {"enabled": False}, "pdb": {"enabled": False}},
        },
        "vpa": {"server": {"vpa": {"enabled": True}}, "gateway": {"vpa": {"enabled": True}}},
    }


def _source(deployment: Deployment) -> Values:
    if deployment.canary is not None:
        raise UsageError(
            "the chart divides no requests between repositories",
            where="--canary-source",
            mend="--target kserve, or install a second release under another name",
        )
    source: Source = deployment.source
    room = quantity(max(1 << 30, _ROOM * sum(model.disk_bytes for model in deployment.models)))
    if source.kind == "url":
        found: Values = {"url": source.value}
        found |= {"sha256": source.sha256} if source.sha256 else {"allowUnverified": True}
        return {"kind": "url", "url": found, "size": room}
    if source.kind == "pvc":
        claim, _, folder = source.value.partition("/")
        return {"kind": "pvc", "pvc": {"claimName": claim, **({"subPath": folder} if folder else {})}}
    if source.kind == "oci":
        return {"kind": "oci", "oci": {"image": source.value}, "size": room}
    raise UsageError(
        f"a folder of this machine is not in the cluster: {source.value}",
        where="--source",
        mend="give s3://... or https://... of a packed repository, pvc://CLAIM, or oci://IMAGE",
    )


def _image(reference: str) -> Values:
    """Repository and tag, or digest, as the chart takes them; a digest makes the tag mere decoration."""
    name, _, digest = reference.partition("@")
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        head, tag = name, ""
    return {"repository": head, "tag": tag} if not digest else {"repository": head, "digest": digest}


def _overlays() -> dict[str, str]:
    files = {}
    for name, (namespace, switched) in OVERLAYS.items():
        overlay = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": namespace,
            "resources": ["namespace.yaml", "../../base"],
            "components": [f"../../components/{each}" for each in switched],
        }
        restricted = {
            f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")
        }
        metadata = {"name": namespace, "labels": restricted}
        files[f"kustomize/overlays/{name}/kustomization.yaml"] = to_yaml(overlay)
        files[f"kustomize/overlays/{name}/namespace.yaml"] = to_yaml(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        )
    return files


def _merged(first: Values, *others: Values) -> Values:
    """Values over values, as Helm puts files over files."""
    found = dict(first)
    for other in others:
        for key, value in other.items():
            below = found.get(key)
            both = isinstance(below, dict) and isinstance(value, dict)
            # If both, below is a dict.
            found[key] = _merged(below, value) if both else value  # type: ignore[arg-type]
    return found


_HEAD = """\
# Made by `tritonforge deploy render`, version {version}. All other values: chart/tritonforge/values.yaml.
"""
_MONITORING_HEAD = """\
# For a cluster with the Prometheus Operator, prometheus-adapter (prometheus-adapter.yaml) and the Vertical
# Pod Autoscaler; leave out what yours has not.
"""
