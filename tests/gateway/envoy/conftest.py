"""A door before an upstream that answers what reached it, shared by the tests that only look."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.envoy.echo_door import EchoDoor, echo_door


@pytest.fixture(scope="session")
def echo() -> Iterator[EchoDoor]:
    """Ample limits, one page that may call by CORS."""
    with echo_door(listen={"allow_origins": ["https://app.example.com"]}) as door:
        yield door
