from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import loadtest
from loadtest import perf_analyzer_install
from loadtest.errors import LoadTestError
from loadtest.perf_analyzer_generation import Form, command, input_data, parse_streams, read_export
from loadtest.perf_analyzer_install import install
from tritonforge.errors import UsageError
from tritonforge.server import ServerOptions, TritonServer

ROOT = Path(loadtest.__file__).parents[1]

# Written by genai-perf 0.0.16: profile --endpoint-type kserve --streaming --output-tokens-mean 16
# --output-tokens-mean-deterministic, with --backend vllm and --backend tensorrtllm.
GENAI_PERF = {
    Form.VLLM: r"""{"data": [{
      "model": "smollm2",
      "text_input": [" heavy bier NURSE O Tybalt"],
      "exclude_input_in_output": [true],
      "stream": [true],
      "sampling_parameters": ["{\"max_tokens\":\"16\",\"min_tokens\":\"16\"}"]
    }]}""",
    Form.TENSORRT_LLM: r"""{"data": [{
      "model": "smollm2",
      "text_input": [" heavy bier NURSE O Tybalt"],
      "max_tokens": [16],
      "exclude_input_in_output": [true],
      "stream": [true],
      "min_length": [16]
    }]}""",
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "loadtest.perf_analyzer", "generation", *arguments]
    return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("form", GENAI_PERF)
def test_forms_are_those_of_genai_perf(form: Form) -> None:
    assert input_data(form, "smollm2", [" heavy bier NURSE O Tybalt"], 16) == json.loads(GENAI_PERF[form])


def test_own_form_has_a_step_for_each_prompt() -> None:
    steps = input_data(Form.OWN, "m", ["a", "b"], 7)["data"]
    assert steps[1] == {"text_input": ["b"], "max_tokens": [7], "ignore_eos": [True], "stream": [True]}


def test_command_of_tensorrt_llm_has_shapes() -> None:
    # Printed by genai-perf 0.0.16 in its log.
    expected = (
        "pa -m m --async --warmup-request-count 2 --stability-percentage 999 --request-count 12 -i grpc "
        "--streaming --shape max_tokens:1 --shape text_input:1 -u h:1 --concurrency-range 2 "
        "--service-kind triton"
    )
    assert command(Path("pa"), Form.TENSORRT_LLM, "m", "h:1", 2, 12) == expected.split()
    assert "--shape" not in command(Path("pa"), Form.VLLM, "m", "h:1", 2, 12)


def export(*requests: dict[str, Any]) -> dict[str, Any]:
    return {"experiments": [{"requests": list(requests)}]}


def answered(start: int, times: list[int], tokens: int | str) -> dict[str, Any]:
    outputs: list[dict[str, Any]] = [{"text_output": "a", "completion_tokens": ""} for _ in times]
    outputs[-1]["completion_tokens"] = tokens
    return {
        "timestamp": start * 10**6,
        "response_timestamps": [time * 10**6 for time in times],
        "response_outputs": outputs,
    }


def test_export_is_read() -> None:
    found = read_export(export(answered(0, [100, 150, 200], 3), answered(100, [400, 500], 5)), 2)
    assert (found.streams, found.requests, found.tokens) == (2, 2, 8)
    assert found.tokens_per_second == pytest.approx(16)
    assert (found.first_token_p50_ms, found.first_token_p90_ms) == pytest.approx((200, 280))
    assert (found.per_token_p50_ms, found.per_token_p90_ms) == pytest.approx((37.5, 47.5))


def test_answers_that_are_cut_off_are_an_error() -> None:
    with pytest.raises(LoadTestError, match="cut off"):
        read_export(export(answered(0, [100], "")), 1)
    with pytest.raises(LoadTestError, match="no request"):
        read_export(export(), 1)


@pytest.mark.parametrize("text", ["", "1,", "0", "a", "4:8"])
def test_streams_must_be_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="streams"):
        parse_streams(text)
    assert parse_streams("1,16") == [1, 16]


@pytest.fixture(scope="session")
def tool() -> Path:
    """The real tool, installed into the project's cache unless it is there."""
    if sys.platform != "linux" or shutil.which("apt-get") is None:
        pytest.skip("perf_analyzer is installed on Debian and Ubuntu only")
    return install(ROOT / perf_analyzer_install.DEFAULT_CACHE)


@pytest.fixture(scope="module")
def server(
    tiny_generation_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, engine_threads=1)
    log = tmp_path_factory.mktemp("log") / "server.log"
    with log.open("wb") as sink, TritonServer(tiny_generation_repository, options, log_sink=sink) as running:
        yield running


@pytest.mark.parametrize("form", list(Form))
def test_real_run(tool: Path, server: TritonServer, form: Form) -> None:
    settings = ["--model", server.models[0], "--url", server.grpc_url, "--form", form.value, "--json"]
    done = run(*settings, "--streams", "1,4", "--requests", "6", "--tokens", "12", "--length-mix", "2,4")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["form"], report["tokens"]) == (form.value, 12)
    for streams, measured in zip((1, 4), report["measurements"], strict=True):
        assert measured["streams"] == streams
        assert measured["requests"] == max(6, 2 * streams)
        assert measured["tokens"] == 12 * measured["requests"]
        assert 0 < measured["first_token_p50_ms"] <= measured["first_token_p90_ms"]
        assert measured["tokens_per_second"] > 0


def test_an_absent_model_is_said(tool: Path, server: TritonServer) -> None:
    done = run("--model", "absent", "--url", server.grpc_url, "--streams", "1")
    assert done.returncode == 1
    assert "unknown model" in done.stderr
    assert "mend:" in done.stderr
    assert "Traceback" not in done.stderr
