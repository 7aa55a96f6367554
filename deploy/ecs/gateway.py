"""The gateway.yaml of a task: the server is beside it, the load balancer in front of it."""

from __future__ import annotations

from typing import Any

from deploy.deployment import DRAIN_S, GRPC_PORT, HTTP_PORT, Deployment
from deploy.text import to_yaml

DOOR_PORT = 8080
FOLDER = "/var/lib/tritonforge"
"""Belongs to the image's user, so a volume over it does too."""
IDLE_S = 300


def gateway_config(deployment: Deployment) -> str:
    """The file."""
    config: dict[str, Any] = {
        "listen": {
            "host": "0.0.0.0",
            "port": DOOR_PORT,
            # X-Forwarded-For is the load balancer's to write.
            "trusted_hops": 1,
            # Longer than the load balancer's, which otherwise sends a request on a connection just closed.
            "idle_timeout_s": IDLE_S + 60,
        },
        "pools": [
            {
                "name": "main",
                "models": ["*"],
                "regions": [
                    {
                        "name": "task",
                        "servers": [{"host": "127.0.0.1", "http_port": HTTP_PORT, "grpc_port": GRPC_PORT}],
                    }
                ],
            }
        ],
        "auth": {"api_keys": {"file": "keys.json"}},
        "resilience": {"drain_s": DRAIN_S},
        "logs": {"format": "json"},
    }
    return f"# The front door of {deployment.name}. Every key and its default: docs/gateway.md.\n" + to_yaml(
        config
    )
