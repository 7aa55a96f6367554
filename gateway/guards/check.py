"""Whether the guards could start with a configuration, asked before any process is."""

from __future__ import annotations

from gateway.config import GatewayConfig
from gateway.guards.redis_link import redis_url
from gateway.guards.screen import PromptScreen


def check_guards(config: GatewayConfig) -> None:
    """Compile the patterns, and look for the address of Redis.

    Raises:
        GatewayConfigError: A pattern is none, or shared limits are set and no variable says where Redis is.
    """
    PromptScreen(config.screen)
    shared = config.limits.shared
    if shared is not None and shared.limited:
        redis_url(shared.redis_url_env)
