"""CloudFormation's functions, as values."""

from __future__ import annotations

from typing import Any

Value = Any
"""Text, or a function that gives it when the stack is created."""


def ref(name: str) -> Value:
    """A parameter's value, or what a resource is called by."""
    return {"Ref": name}


def attribute(resource: str, name: str) -> Value:
    """An attribute of a resource."""
    return {"Fn::GetAtt": [resource, name]}


def sub(text: str) -> Value:
    """Text with ``${...}`` in it."""
    return {"Fn::Sub": text}


def policy(*statements: Value) -> Value:
    """An IAM policy document."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(actions: list[str], *resources: Value, condition: Value = None) -> Value:
    """A statement of one."""
    statement: dict[str, Value] = {"Effect": "Allow", "Action": actions, "Resource": list(resources)}
    return statement | ({"Condition": condition} if condition else {})
