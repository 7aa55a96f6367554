"""The real perf_analyzer against a real server; each level is short, so figures mean nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import LoadTestError
from loadtest.perf_analyzer import Form, Plan, run
from loadtest.perf_analyzer.runner import arguments
from loadtest.sampling import Watch
from loadtest.served import Served
from tritonforge.errors import UsageError
from tritonforge.server import TritonServer

SHORT: dict[str, Any] = {"duration_s": 1.2, "warm_up_s": 0.3, "texts": 20}


def test_command_of_tensorrt_llm_has_shapes() -> None:
    # genai-perf 0.0.16 sends these with its form.
    served = Served("m", "generation")
    shapes = ["--shape", "max_tokens:1", "--shape", "text_input:1"]
    words = arguments(Plan(model="m", url="h:1", form=Form.TENSORRT_LLM), served, 2)
    assert words[words.index("--streaming") + 1 :] == shapes
    assert "--shape" not in arguments(Plan(model="m", url="h:1", form=Form.VLLM), served, 2)


def test_three_intervals_of_its_own_kind_make_the_duration() -> None:
    plan = Plan(model="m", url="h:1", duration_s=8.0, warm_up_s=1.0)
    encoder, generator = (arguments(plan, Served("m", task), 2) for task in ("embedding", "generation"))
    assert encoder[encoder.index("--measurement-interval") + 1] == "2528"
    assert generator[generator.index("--measurement-interval") + 1] == "2778"  # and the end of its answers


def test_concurrency_over_grpc(tool: Path, server: TritonServer) -> None:
    plan = Plan(model="toy_embedder", url=server.grpc_url, levels=(1, 4), texts_per_request=3, **SHORT)
    done = run(plan, watch=Watch(server.metrics_url, (server.pid,)), tool=tool, command="again")
    assert [(point.kind, point.level) for point in done.points] == [("concurrency", 1), ("concurrency", 4)]
    for point in done.points:
        assert point.requests > 0
        assert point.items_per_second == pytest.approx(3 * point.requests_per_second)
        assert point.latency is not None
        assert 0 < point.latency.p50 <= point.latency.p99
        assert point.errors == 0
        assert sum(window.requests for window in point.windows) == point.requests
    assert (done.setting.task, done.setting.tool, done.setting.command) == (
        "embedding",
        "perf_analyzer",
        "again",
    )
    assert done.setting.server is not None
    assert done.samples
    # The server writes its two counters one after the other.
    assert max(sample.batch or 0 for sample in done.samples) == pytest.approx(3, rel=0.02)
    assert done.samples[0].memory_bytes


def test_poisson_arrivals_over_http(tool: Path, server: TritonServer) -> None:
    plan = Plan(
        model="toy_classifier",
        url=server.http_address,
        protocol="http",
        kind="poisson",
        levels=(60,),
        **SHORT,
    )
    (point,) = run(plan, tool=tool).points
    assert (point.kind, point.level) == ("poisson", 60)
    assert 5 < point.requests_per_second < 150


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_shared_memory_of_strings(tool: Path, server: TritonServer, protocol: Any) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_address
    plan = Plan(
        model="toy_classifier", url=url, protocol=protocol, levels=(2,), shared_memory="system", **SHORT
    )
    done = run(plan, tool=tool)
    assert done.points[0].requests > 0
    assert done.setting.shared_memory == "system"


@pytest.mark.parametrize("form", list(Form))
def test_streams_in_all_forms(tool: Path, generator: TritonServer, form: Form) -> None:
    plan = Plan(
        model=generator.models[0],
        url=generator.grpc_url,
        form=form,
        levels=(2,),
        tokens=6,
        length_mix="2,4",
        **SHORT | {"texts": 200},
    )
    (point,) = run(plan, tool=tool).points
    assert point.requests > 0
    assert point.first_token is not None
    assert point.per_token is not None
    assert point.latency is not None
    assert point.first_token.p50 + 5 * point.per_token.p50 == pytest.approx(point.latency.p50, rel=0.5)
    assert point.items_per_second > 0


def test_what_cannot_be_done_is_said(server: TritonServer) -> None:
    over_http = Plan(model="toy_generator", url=server.http_address, protocol="http")
    with pytest.raises(UsageError, match=r"gRPC only[\s\S]*locust"):
        run(over_http)
    shared = Plan(model="toy_generator", url=server.grpc_url, shared_memory="system")
    with pytest.raises(UsageError, match="optional inputs"):
        run(shared)
    with pytest.raises(UsageError, match="whole"):
        run(Plan(model="toy_embedder", url=server.grpc_url, levels=(1.5,)))


def test_a_level_that_is_turned_away_ends_alone(tool: Path, server: TritonServer) -> None:
    plan = Plan(model="crowded", url=server.grpc_url, levels=(1, 16, 1), **SHORT)
    before, failed, after = run(plan, tool=tool).points
    assert before.requests > 0
    assert after.requests > 0
    assert (failed.requests, failed.errors, failed.latency, failed.stable) == (0, 1, None, False)
    assert "Exceeds maximum queue size" in next(iter(failed.error_kinds))


def test_first_level_that_fails_ends_the_run(tool: Path, server: TritonServer) -> None:
    # Without a GPU there is no CUDA memory; with one this runs.
    plan = Plan(model="toy_embedder", url=server.grpc_url, levels=(2,), shared_memory="cuda", **SHORT)
    try:
        assert run(plan, tool=tool).points[0].requests > 0
    except LoadTestError as error:
        assert "CUDA" in error.what
        assert "GPU" in (error.mend or "")


def test_an_absent_model_and_server_are_said(server: TritonServer) -> None:
    for protocol, url in (("grpc", server.grpc_url), ("http", server.http_address)):
        with pytest.raises(LoadTestError, match=r"unknown model[\s\S]*mend:"):
            run(Plan(model="absent", url=url, protocol=protocol))
        with pytest.raises(LoadTestError, match=r"nobody answers[\s\S]*--url"):
            run(Plan(model="toy_embedder", url="127.0.0.1:9", protocol=protocol))
