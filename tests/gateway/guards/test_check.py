"""What the guards cannot do is said before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import GatewayConfig
from gateway.errors import GatewayConfigError
from gateway.guards.check import check_guards


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"screen": {"deny": ["("]}}, "screen.deny.0"),
        ({"limits": {"shared": {"requests_per_minute": 5}}}, "limits.shared.redis_url_env"),
    ],
)
def test_what_cannot_start_is_named(
    monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any], where: str
) -> None:
    monkeypatch.delenv("TRITONFORGE_REDIS_URL", raising=False)
    with pytest.raises(GatewayConfigError) as error:
        check_guards(GatewayConfig.model_validate(sections))
    assert error.value.where == where


def test_shared_limits_without_a_limit_need_no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITONFORGE_REDIS_URL", raising=False)
    check_guards(GatewayConfig.model_validate({"limits": {"shared": {}}, "screen": {"deny": ["fine"]}}))
