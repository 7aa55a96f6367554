"""The same stack for those who plan with Terraform: it creates the template, so nothing is written twice."""

from __future__ import annotations

import re
from typing import Any


def terraform(stack: dict[str, Any], template_file: str, name: str) -> dict[str, Any]:
    """A root module in Terraform's JSON syntax: a variable a parameter, the stack, its outputs.

    Args:
        stack: The template.
        template_file: Where it lies, beside the module.
        name: Of the stack.
    """
    parameters: dict[str, dict[str, Any]] = stack["Parameters"]
    lists = {key for key, parameter in parameters.items() if parameter["Type"].startswith("List<")}
    return {
        "terraform": {
            "required_version": ">= 1.5",
            "required_providers": {"aws": {"source": "hashicorp/aws", "version": ">= 5.60, < 7"}},
        },
        "variable": {_snake(key): _variable(parameter) for key, parameter in parameters.items()},
        "resource": {
            "aws_cloudformation_stack": {
                "this": {
                    "name": name,
                    "template_body": f'${{file("${{path.module}}/{template_file}")}}',
                    "capabilities": ["CAPABILITY_IAM"],
                    "on_failure": "ROLLBACK",
                    "parameters": {
                        key: f'${{join(",", var.{_snake(key)})}}'
                        if key in lists
                        else f"${{var.{_snake(key)}}}"
                        for key in parameters
                    },
                }
            }
        },
        "output": {
            _snake(key): {
                "description": output["Description"],
                "value": f'${{aws_cloudformation_stack.this.outputs["{key}"]}}',
            }
            for key, output in stack["Outputs"].items()
        },
    }


def _variable(parameter: dict[str, Any]) -> dict[str, Any]:
    kinds = {"Number": "number", "List<AWS::EC2::Subnet::Id>": "list(string)"}
    found = {
        "description": parameter["Description"],
        "type": kinds.get(parameter["Type"], "string"),
        "nullable": False,
    }
    return found if "Default" not in parameter else found | {"default": parameter["Default"]}


def _snake(name: str) -> str:
    """``ModelKmsKeyArn`` to ``model_kms_key_arn``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
