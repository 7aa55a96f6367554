"""How the depth of Triton's queues gets to CloudWatch: the AWS Distro for OpenTelemetry, beside each server.

It writes lines in CloudWatch's embedded metric format to a log group, so it needs no right to put metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deploy.deployment import METRICS_PORT, Deployment
from deploy.text import to_yaml

# ECR Public needs no login and has no pull limit from AWS. Before another version: see that its list of
# components still has prometheus, metricstransform and awsemf.
IMAGE = "public.ecr.aws/aws-observability/aws-otel-collector:v0.43.3"
NAMESPACE = "tritonforge"
DIMENSION = "Service"
_EVERY = "15s"


@dataclass(frozen=True)
class Queue:
    """A gauge of requests that wait.

    Attributes:
        metric: Its name in Prometheus, and in CloudWatch.
        resource: Name of its scaling policy in the stack.
    """

    metric: str
    resource: str


ENCODERS = Queue("nv_inference_pending_request_count", "PendingRequestsPolicy")
# A generator takes every request at once and keeps a line of its own.
GENERATORS = Queue("tritonforge_generation_waiting_requests", "WaitingRequestsPolicy")


def queues(deployment: Deployment) -> tuple[Queue, ...]:
    """Where requests of these models wait."""
    encodes = any(model.task != "generation" for model in deployment.models)
    return ((ENCODERS,) if encodes else ()) + ((GENERATORS,) if deployment.generates else ())


def collector_config(deployment: Deployment, service: str, log_group: str) -> str:
    """The collector's configuration: scrape, sum over models, write.

    Args:
        deployment: Its models tell which queues there are.
        service: Value of the metrics' one dimension.
        log_group: Gets the lines.
    """
    names = [queue.metric for queue in queues(deployment)]
    config: dict[str, Any] = {
        "receivers": {"prometheus": {"config": {"scrape_configs": [_scrape(service, names)]}}},
        "processors": {
            "metricstransform": {
                "transforms": [
                    {
                        "include": name,
                        "action": "update",
                        "operations": [
                            {
                                "action": "aggregate_labels",
                                "label_set": [DIMENSION],
                                "aggregation_type": "sum",
                            }
                        ],
                    }
                    for name in names
                ]
            }
        },
        "exporters": {
            "awsemf": {
                "namespace": NAMESPACE,
                "log_group_name": log_group,
                "log_stream_name": "{TaskId}",
                "dimension_rollup_option": "NoDimensionRollup",
                "metric_declarations": [{"dimensions": [[DIMENSION]], "metric_name_selectors": names}],
            }
        },
        "service": {
            "pipelines": {
                "metrics": {
                    "receivers": ["prometheus"],
                    "processors": ["metricstransform"],
                    "exporters": ["awsemf"],
                }
            }
        },
    }
    return to_yaml(config)


def _scrape(service: str, names: list[str]) -> dict[str, Any]:
    """As Prometheus has it."""
    return {
        "job_name": "triton",
        "scrape_interval": _EVERY,
        "static_configs": [{"targets": [f"127.0.0.1:{METRICS_PORT}"], "labels": {DIMENSION: service}}],
        "metric_relabel_configs": [
            {"source_labels": ["__name__"], "regex": "|".join(names), "action": "keep"}
        ],
    }
