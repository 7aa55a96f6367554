"""Amazon ECS: a CloudFormation template, its parameters, and Terraform around it for those who use that."""

from __future__ import annotations

import json

from deploy.deployment import Deployment
from deploy.ecs.readme import readme
from deploy.ecs.template import template
from deploy.ecs.terraform import terraform
from deploy.text import to_yaml

TEMPLATE = "template.yaml"


def render(deployment: Deployment) -> dict[str, str]:
    """All files.

    Raises:
        UsageError: No instance takes a server, or its models lie where no task can read them.
    """
    stack = template(deployment)
    needed = [name for name, parameter in stack["Parameters"].items() if "Default" not in parameter]
    asked = [{"ParameterKey": name, "ParameterValue": ""} for name in needed]
    head = f"# {deployment.name} on Amazon ECS. README.md says how to create it.\n"
    return {
        TEMPLATE: head + to_yaml(stack),
        "parameters.json": json.dumps(asked, indent=2) + "\n",
        "main.tf.json": json.dumps(terraform(stack, TEMPLATE, deployment.name), indent=2) + "\n",
        "README.md": readme(deployment, needed),
    }
