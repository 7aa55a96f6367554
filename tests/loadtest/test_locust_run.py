from __future__ import annotations

import pytest

from loadtest.errors import LoadTestError
from loadtest.locust_run import LocustPlan, arguments, run
from loadtest.served import Served
from tritonforge.errors import UsageError


def test_what_a_protocol_is_not_for_is_said() -> None:
    for target, task in (
        ("triton-http", "generation"),
        ("websocket", "embedding"),
        ("openai", "classification"),
    ):
        plan = LocustPlan(model="m", url="h:1", target=target)
        with pytest.raises(UsageError, match=rf"{target} is not for models of task {task}[\s\S]*--target"):
            arguments(plan, Served("m", task))


def test_no_secret_is_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONFORGE_TOKEN", "secret-token")
    words = arguments(LocustPlan(model="m", url="http://h:1", target="rest"), Served("m", "embedding"))
    assert not any("secret" in word for word in words)


@pytest.mark.parametrize("target", ["triton-grpc", "rest"])
def test_nobody_there_is_said(target: str) -> None:
    with pytest.raises(LoadTestError, match=r"answers[\s\S]*--url"):
        run(LocustPlan(model="m", url="127.0.0.1:9", target=target))
