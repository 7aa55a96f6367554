"""The official client, and the facade for it."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from gateway.config import GatewayConfig
from tests.gateway.serving import serve_facade
from tritonforge.server import TritonServer


@pytest.fixture(scope="session")
def facade_url(triton: TritonServer) -> Iterator[str]:
    """The facade's address."""
    config = GatewayConfig.model_validate({"limits": {"max_texts": 40, "max_text_bytes": 2000}})
    with serve_facade(triton.grpc_url, config) as url:
        yield url


@pytest.fixture(scope="session")
def client(facade_url: str) -> Iterator[openai.OpenAI]:
    """The official client, for alice, who may do everything."""
    with openai.OpenAI(base_url=f"{facade_url}/v1", api_key="token-of-alice", max_retries=0) as client:
        yield client
