"""``gateway.yaml``: what it may say, and how it is read."""

from gateway.config.load import load_config
from gateway.config.schema import GatewayConfig

__all__ = ["GatewayConfig", "load_config"]
