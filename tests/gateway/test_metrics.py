"""What the facade counts, seen as Prometheus sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.gateway.conftest import FacadeApp, RunningApp

OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
SPAN = "00f067aa0ba902b7"
PREFIX = "tritonforge_gateway_"


def traced(trace: str, *, sampled: bool = True) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{SPAN}-{int(sampled):02}"}


def samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        yield from family.samples


async def scrape(running: RunningApp) -> list[Sample]:
    answer = await running.client.get("/metrics", headers=OPENMETRICS)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    return list(samples(answer.text))


def families_of(trace: str, found: list[Sample]) -> set[str]:
    """Histograms with an exemplar of a trace."""
    return {
        sample.name.removeprefix(PREFIX).removesuffix("_bucket")
        for sample in found
        if sample.exemplar and sample.exemplar.labels == {"trace_id": trace}
    }


async def test_histograms_lead_to_the_traces_of_requests(facade_app: FacadeApp) -> None:
    embed, chat = "a" * 32, "b" * 32
    async with facade_app() as running:
        body = {"model": "embed", "text": "a text that was never asked before"}
        (await running.client.post("/embed", json=body, headers=traced(embed))).raise_for_status()
        asked = {"model": "tinygen", "prompt": "once", "max_tokens": 6, "stream": True, "ignore_eos": True}
        answer = await running.client.post("/v1/completions", json=asked, headers=traced(chat))
        answer.raise_for_status()
        found = await scrape(running)
    shared = {"request_duration_seconds", "model_duration_seconds", "request_tokens"}
    assert families_of(embed, found) == {*shared, "server_duration_seconds"}
    streamed = {"time_to_first_token_seconds", "time_per_output_token_seconds"}
    assert families_of(chat, found) == shared | streamed


async def test_a_trace_that_is_not_sampled_is_not_named(facade_app: FacadeApp) -> None:
    trace = "c" * 32
    async with facade_app() as running:
        body = {"model": "embed", "text": "another text that was never asked before"}
        headers = traced(trace, sampled=False)
        (await running.client.post("/embed", json=body, headers=headers)).raise_for_status()
        assert trace not in (await running.client.get("/metrics", headers=OPENMETRICS)).text


async def test_who_does_not_ask_for_openmetrics_gets_text_without_exemplars(facade_app: FacadeApp) -> None:
    trace = "d" * 32
    async with facade_app() as running:
        body = {"model": "embed", "text": "yet another text"}
        (await running.client.post("/embed", json=body, headers=traced(trace))).raise_for_status()
        answer = await running.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "tritonforge_gateway_model_duration_seconds_bucket" in answer.text
    assert trace not in answer.text


async def test_endings_are_counted_by_model_and_code(facade_app: FacadeApp) -> None:
    async with facade_app() as running:
        before = _endings(await scrape(running))
        body = {"model": "tinygen", "text": "a", "max_length": 2, "temperature": 0.7}
        (await running.client.post("/predict", json=body)).raise_for_status()
        too_long = {"model": "tinygen", "text": "word " * 2000, "max_length": 2}
        refused = (await running.client.post("/predict", json=too_long)).json()["code"]
        after = _endings(await scrape(running))
    counted = {key: value - before.get(key, 0) for key, value in after.items()}
    assert counted["tinygen", "ok"] == 1
    assert counted["tinygen", refused] == 1


async def test_what_callers_make_up_is_no_label(facade_app: FacadeApp) -> None:
    made_up = "no-such-model-4711"
    async with facade_app() as running:
        answer = await running.client.post("/embed", json={"model": made_up, "text": "a"})
        assert answer.status_code == httpx.codes.NOT_FOUND
        await running.client.get(f"/{made_up}")
        await running.client.get(f"/v1/models/{made_up}")
        assert made_up not in (await running.client.get("/metrics")).text


def _endings(found: list[Sample]) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["model"], sample.labels["code"]): sample.value
        for sample in found
        if sample.name == f"{PREFIX}model_requests_total"
    }


_WORKER = """
from gateway.metrics import count_tokens, exposition, observe
from gateway.tracing import enter

enter("00-{trace}-00f067aa0ba902b7-01")
observe("http", "/embed", "200", {seconds})
count_tokens("embed", "prompt", 7)
print(exposition({accept!r})[0].decode(), end="")
"""


def test_workers_add_up_and_the_one_that_answers_gives_its_exemplars(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for trace, seconds in (("1" * 32, 0.004), ("2" * 32, 2)):
        code = _WORKER.format(trace=trace, seconds=seconds, accept=OPENMETRICS["accept"])
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
    found = list(samples(done.stdout))
    buckets = {
        sample.labels["le"]: sample
        for sample in found
        if sample.name == f"{PREFIX}request_duration_seconds_bucket"
    }
    assert (buckets["0.005"].value, buckets["2.5"].value) == (1, 2)
    assert buckets["0.005"].exemplar is None
    assert buckets["2.5"].exemplar.labels == {"trace_id": "2" * 32}
    assert next(s.value for s in found if s.name == f"{PREFIX}tokens_total") == 14
