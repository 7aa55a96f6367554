"""The stack as a whole."""

from __future__ import annotations

from typing import Any

from deploy.deployment import Deployment
from deploy.ecs.capacity import capacity
from deploy.ecs.instances import Instance, smallest_for
from deploy.ecs.parameters import conditions, parameters
from deploy.ecs.roles import roles
from deploy.ecs.scaling import scaling
from deploy.ecs.service import outputs, service
from deploy.ecs.task import task_cpu, task_definition, task_memory
from deploy.ecs.values import Value, ref


def instance_for(deployment: Deployment) -> Instance:
    """The instance type that takes one task.

    Raises:
        UsageError: None does.
    """
    return smallest_for(deployment, task_cpu(deployment), task_memory(deployment))


def template(deployment: Deployment) -> dict[str, Any]:
    """The CloudFormation template.

    Raises:
        UsageError: No instance takes a server, or its models lie where no task can read them.
    """
    names = ", ".join(model.name for model in deployment.models)
    found: dict[str, Any] = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"tritonforge {deployment.version}: {names} on Amazon ECS, on EC2 instances",
        "Parameters": parameters(deployment, instance_for(deployment)),
        "Conditions": conditions(deployment.source),
        "Resources": {
            "LogGroup": _log_group(),
            "MetricsLogGroup": _log_group(),
            **roles(deployment),
            **capacity(deployment),
            "TaskDefinition": task_definition(deployment),
            **service(),
            **scaling(deployment),
        },
        "Outputs": outputs(),
    }
    return {key: value for key, value in found.items() if value}


def _log_group() -> Value:
    """Named by CloudFormation; kept for as long as it says, and not after the stack."""
    return {
        "Type": "AWS::Logs::LogGroup",
        "UpdateReplacePolicy": "Delete",
        "DeletionPolicy": "Delete",
        "Properties": {"RetentionInDays": ref("LogRetentionDays")},
    }
