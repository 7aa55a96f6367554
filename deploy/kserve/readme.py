"""The page beside the rendered folders: which is for what, and what each asks of the cluster."""

from __future__ import annotations

from deploy.deployment import Deployment, Source

_FOLDERS = {
    "standard": "a server of its own for each model: a Deployment, and an HPA on CPU where there is no GPU",
    "multi-model": "one server for all models; instead of `standard`",
    "queue-depth": "`standard`, scaled by what waits in Triton's queues, and by CPU; needs KEDA, Prometheus",
    "monitoring": "a PodMonitor for the Prometheus operator",
    "canary": "`standard`, with a share of the requests for the canary's repository; needs KServe 0.20 and "
    "its Gateway API mode",
    "knative": "instead of `standard`: Knative, down to no server while nobody asks",
    "knative-canary": "`knative`, where what was applied last gets a share of the requests only",
}


def readme(deployment: Deployment, folders: list[str]) -> str:
    """The page."""
    rows = "\n".join(f"| `{folder}` | {_FOLDERS[folder]} |" for folder in _FOLDERS if folder in folders)
    models = ", ".join(f"`{model.name}` ({model.engine})" for model in deployment.models)
    return f"""# {deployment.name} on KServe

Rendered by tritonforge {deployment.version} for {models}. Written for KServe 0.16 and later.

| folder | |
| --- | --- |
{rows}

    kubectl apply --namespace inference -k standard

Before that:

{_before(deployment)}
To ask, from inside the namespace:

    curl http://{deployment.models[0].label}-predictor/v2/models/{deployment.models[0].name}

Change the recipes or the options and render again, rather than these files; the command refuses to write over
files that were changed by hand.
"""


def _before(deployment: Deployment) -> str:
    """What has to be there."""
    lines = [f"- push `{deployment.server_image}` to a registry that the nodes reach (`--server-image`)"]
    lines += _source(deployment, deployment.source)
    if deployment.gpu:
        lines.append("- NVIDIA's GPU operator, or its device plug-in and the label `nvidia.com/gpu.present`")
    knative = []
    if deployment.source.kind == "url":
        knative.append("kubernetes.podspec-init-containers")
    if deployment.gpu:
        knative += ["kubernetes.podspec-nodeselector", "kubernetes.podspec-tolerations"]
    if knative:
        names = ", ".join(f"`{name}`" for name in knative)
        lines.append(f"- for `knative`: {names} `enabled` in Knative's ConfigMap `config-features`")
    return "\n".join(lines) + "\n"


def _source(deployment: Deployment, source: Source) -> list[str]:
    if source.kind == "pvc":
        return [f"- the claim `{source.value.split('/')[0]}` of the namespace holds the model repository"]
    if source.kind == "oci":
        return [
            f"- `{source.value}` holds the repository in `/models`; KServe's `oci://` support is turned on"
        ]
    return [
        f"- the service account `{deployment.name}` may read {source.value} (the cloud's workload identity), "
        f"or the Secret `{deployment.name}-source` holds the variables of its credentials",
    ]
