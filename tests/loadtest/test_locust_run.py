from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.errors import LoadTestError
from loadtest.locust_run import LocustPlan, arguments, run
from loadtest.sampling import Watch
from loadtest.served import Served
from tritonforge.errors import UsageError
from tritonforge.server import TritonServer


def test_steps_on_two_processes(server: TritonServer, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one text\n\nanother text\nand a third\n", encoding="utf-8")
    plan = LocustPlan(
        model="toy_classifier",
        url=server.grpc_url,
        users=(1, 3),
        duration_s=0.8,
        warm_up_s=0.3,
        texts_file=texts,
        texts_per_request=2,
        processes=2,
        stability_percent=10_000,
    )
    done = run(plan, watch=Watch(server.metrics_url, (server.pid,)), command="again")
    assert [(point.kind, point.level) for point in done.points] == [("users", 1), ("users", 3)]
    for point in done.points:
        assert point.requests > 0
        assert point.errors == 0
        assert point.items_per_second == pytest.approx(2 * point.requests_per_second)
        assert sum(window.requests for window in point.windows) == point.requests
    assert done.points[1].started >= done.points[0].started + 0.8
    assert (done.setting.tool, done.setting.corpus, done.setting.task) == (
        "locust",
        "texts.txt",
        "classification",
    )
    assert any(sample.batch == 2 for sample in done.samples)


def test_what_a_protocol_is_not_for_is_said() -> None:
    for target, task in (
        ("triton-http", "generation"),
        ("websocket", "embedding"),
        ("openai", "classification"),
    ):
        plan = LocustPlan(model="m", url="h:1", target=target)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=rf"{target} is not for models of task {task}[\s\S]*--target"):
            arguments(plan, Served("m", task))


def test_no_secret_is_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONFORGE_TOKEN", "secret-token")
    words = arguments(LocustPlan(model="m", url="http://h:1", target="rest"), Served("m", "embedding"))
    assert not any("secret" in word for word in words)


@pytest.mark.parametrize("target", ["triton-grpc", "rest"])
def test_nobody_there_is_said(target: str) -> None:
    with pytest.raises(LoadTestError, match=r"answers[\s\S]*--url"):
        run(LocustPlan(model="m", url="127.0.0.1:9", target=target))  # type: ignore[arg-type]
