"""How uvicorn serves the facade."""

from __future__ import annotations

from typing import Any

from gateway.config import GatewayConfig
from gateway.facade.websocket.protocol import SocketProtocol


def server_options(config: GatewayConfig) -> dict[str, Any]:
    """Arguments of ``uvicorn.run``, but where to listen.

    Args:
        config: ``gateway.yaml``.
    """
    return {
        "loop": "uvloop",
        "http": "httptools",
        "ws": SocketProtocol,
        "log_config": None,  # its lines are formed as ours
        "access_log": False,
        "ws_ping_interval": config.websocket.ping_interval_s,
        "ws_ping_timeout": config.websocket.ping_timeout_s,
        "ws_max_size": config.limits.max_body_bytes,
        "ws_per_message_deflate": False,  # a token is too short for it, and it costs memory for each socket
        "timeout_graceful_shutdown": int(config.resilience.drain_s),
    }
