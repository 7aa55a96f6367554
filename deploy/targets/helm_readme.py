"""What is said beside the rendered chart: how it is installed, and what the user has to bring."""

from __future__ import annotations

from deploy.deployment import Deployment, Source


def readme(deployment: Deployment, namespace: str) -> str:
    """README.md of the rendered folder.

    Args:
        deployment: What was rendered.
        namespace: Of the overlays.
    """
    name = deployment.name
    models = ", ".join(f"`{model.name}`" for model in deployment.models)
    return _TEXT.format(name=name, namespace=namespace, models=models, brings=_brings(deployment, namespace))


def _brings(deployment: Deployment, namespace: str) -> str:
    """What must be there before."""
    keys = f"{deployment.name}-keys"
    lines = [
        f"- the images `{deployment.server_image}` and `{deployment.gateway_image}`, for the nodes to pull",
        f"- {_repository(deployment.source)}",
        f"- the Secret `{keys}`: callers' API keys, as digests",
    ]
    if deployment.gpu:
        lines.append(
            "- nodes with GPUs of the kind that the engines were built for, and NVIDIA's device plugin; name "
            "the kind in `server.gpu.nodeSelector`"
        )
    return "\n".join(
        [
            *lines,
            "",
            "```bash",
            f"kubectl create namespace {namespace}",
            f"kubectl create secret generic {keys} --namespace {namespace} \\",
            "  --from-file=keys.json=build/gateway-keys.json",
            "```",
        ]
    )


def _repository(source: Source) -> str:
    """Where the models come from."""
    if source.kind == "pvc":
        claim = source.value.partition("/")[0]
        return f"the claim `{claim}` in the namespace, filled with the model repository"
    if source.kind == "oci":
        return f"the image `{source.value}`, which holds the model repository in `/models`"
    unverified = "" if source.sha256 else ". **It is not verified**: set `source.url.sha256`"
    return (
        f"the archive `{source.value}` of `tritonforge pack`, and what servers need to read it: a role in "
        f"`serviceAccount.annotations`, or a Secret in `source.url.secretName`{unverified}"
    )


_TEXT = """\
# {name} on Kubernetes

Serves {models}. Made by `tritonforge deploy render --target helm`; tritonforge's docs/kubernetes.md explains
it all.

## What you bring

{brings}

`tritonforge gateway keys create` makes keys and that file. With an identity provider, name it in
`gateway.config.auth.issuers` instead and set `gateway.apiKeys.secretName` to nothing.

## Helm

```bash
helm install {name} chart/tritonforge --namespace {namespace} --values values.yaml
```

With the Prometheus Operator, prometheus-adapter and the Vertical Pod Autoscaler add
`--values values-monitoring.yaml`.

## Or kustomize

```bash
kubectl apply -k kustomize/overlays/development
kubectl apply -k kustomize/overlays/production
```

`development` runs one of each, in a namespace of its own; `production` adds monitoring and scales by the
queue. An overlay of your own takes `kustomize/base` and the components it wants:

| component | needs |
| --- | --- |
| `monitoring` | Prometheus Operator: scrapes, recording rules, alerts |
| `queue` | prometheus-adapter with `prometheus-adapter.yaml`: scales servers by waiting requests |
| `keda` | KEDA, instead of `queue`; its query names the namespace `{namespace}`, and where Prometheus is |
| `shared-limits` | Secret `{name}-redis` with `password`: a Redis, and limits that all gateways share |
| `vpa` | Vertical Pod Autoscaler: recommendations only |
| `single` | nothing: one server and one gateway, no autoscaler |

Keep changes in an overlay or a values file elsewhere: this folder is written anew by the next render.
"""
