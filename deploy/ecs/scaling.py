"""How many tasks there are: by what waits in the queues, and by CPU where the CPU computes."""

from __future__ import annotations

from deploy.deployment import Deployment
from deploy.ecs.collector import DIMENSION, NAMESPACE, queues
from deploy.ecs.values import Value, attribute, ref, sub

_CPU_PERCENT = 70
# A new server takes an instance, images and models: minutes, in which no alarm must add another one.
_OUT_S = 120
# Longer than a lull between two peaks.
_IN_S = 600


def scaling(deployment: Deployment) -> dict[str, Value]:
    """The target, and a policy for each signal: any may add servers, all must agree to take one away."""
    found: dict[str, Value] = {
        "Scaling": {
            "Type": "AWS::ApplicationAutoScaling::ScalableTarget",
            "Properties": {
                "ServiceNamespace": "ecs",
                "ScalableDimension": "ecs:service:DesiredCount",
                "ResourceId": {
                    "Fn::Sub": ["service/${Cluster}/${Name}", {"Name": attribute("Service", "Name")}]
                },
                "MinCapacity": ref("MinTasks"),
                "MaxCapacity": ref("MaxTasks"),
            },
        }
    }
    for queue in queues(deployment):
        found[queue.resource] = _policy(
            ref("PendingRequests"),
            CustomizedMetricSpecification={
                "Namespace": NAMESPACE,
                "MetricName": queue.metric,
                # Each task writes one value a scrape, so the average is that of a task.
                "Statistic": "Average",
                "Dimensions": [{"Name": DIMENSION, "Value": ref("AWS::StackName")}],
            },
        )
    if not deployment.gpu:
        found["CpuPolicy"] = _policy(
            _CPU_PERCENT,
            PredefinedMetricSpecification={"PredefinedMetricType": "ECSServiceAverageCPUUtilization"},
        )
    return found


def _policy(target: Value, **metric: Value) -> Value:
    name = next(iter(metric.values())).get("MetricName", "cpu")
    return {
        "Type": "AWS::ApplicationAutoScaling::ScalingPolicy",
        "Properties": {
            "PolicyName": sub(f"${{AWS::StackName}}-{name}"),
            "PolicyType": "TargetTrackingScaling",
            "ScalingTargetId": ref("Scaling"),
            "TargetTrackingScalingPolicyConfiguration": {
                **metric,
                "TargetValue": target,
                "ScaleOutCooldown": _OUT_S,
                "ScaleInCooldown": _IN_S,
            },
        },
    }
