from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from loadtest.find_server import find_watch
from loadtest.sampling import Sampler, Watch, compare, read_metrics
from tritonforge.server import TritonServer

# Written by tritonserver 2.51, the numbers made round.
BEFORE = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="m",version="1"} 100
nv_inference_request_success{model="m_tokenizer",version="1"} 100
nv_inference_request_success{model="m_engine",version="1"} 100
nv_inference_queue_duration_us{model="m_tokenizer",version="1"} 0
nv_inference_queue_duration_us{model="m_engine",version="1"} 0
nv_inference_compute_infer_duration_us{model="m_engine",version="1"} 0
nv_inference_count{model="m_engine",version="1"} 0
nv_inference_exec_count{model="m_engine",version="1"} 0
nv_inference_pending_request_count{model="m_engine",version="1"} 9
nv_inference_queue_summary_us{model="m_engine",version="1",quantile="0.5"} Nan
tritonforge_padding_avoided_tokens_total{model="m_engine",version="1"} 50
"""
AFTER = """\
nv_inference_request_success{model="m",version="1"} 150
nv_inference_request_success{model="m_tokenizer",version="1"} 150
nv_inference_request_success{model="m_engine",version="1"} 150
nv_inference_queue_duration_us{model="m_tokenizer",version="1"} 50000
nv_inference_queue_duration_us{model="m_engine",version="1"} 100000
nv_inference_compute_infer_duration_us{model="m_engine",version="1"} 250000
nv_inference_count{model="m_engine",version="1"} 80
nv_inference_exec_count{model="m_engine",version="1"} 20
nv_inference_pending_request_count{model="m_engine",version="1"} 3
nv_inference_pending_request_count{model="m_tokenizer",version="1"} 2
tritonforge_padding_avoided_tokens_total{model="m_engine",version="1"} 450
"""
PARTS = ("m_tokenizer", "m", "m_engine")


def test_what_happened_between_two_looks() -> None:
    assert compare(read_metrics(BEFORE), read_metrics(AFTER), PARTS) == {
        "queue_ms": pytest.approx(1 + 2),
        "compute_ms": pytest.approx(5),
        "batch": 4,
        "pending": 5,
        "padding_avoided": 400,
    }


def test_nothing_answered_has_no_mean() -> None:
    found = compare(read_metrics(BEFORE), read_metrics(BEFORE), PARTS)
    assert (found["queue_ms"], found["compute_ms"], found["batch"]) == (None, None, None)
    assert found["pending"] == 9


def test_generators_have_a_queue_of_their_own() -> None:
    text = """\
tritonforge_generation_running_sequences{model="g",version="1"} 7
tritonforge_generation_waiting_requests{model="g",version="1"} 2
tritonforge_generation_queue_time_seconds_sum{model="g",version="1"} %s
tritonforge_generation_queue_time_seconds_count{model="g",version="1"} %s
"""
    found = compare(read_metrics(text % (1, 10)), read_metrics(text % (1.5, 20)), ("g",))
    assert found == {"queue_ms": pytest.approx(50), "pending": 2, "batch": 7}


def test_a_server_is_seen_at_work(server: TritonServer) -> None:
    watch = find_watch(server.grpc_url)
    assert watch == Watch(server.metrics_url, (server.pid,))
    with Sampler(watch, ("toy_embedder",), interval=0.1) as sampler:
        import tritonclient.grpc

        client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
        text = tritonclient.grpc.InferInput("text", [2, 1], "BYTES")
        text.set_data_from_numpy(np.array([[b"a"], [b"b"]], dtype=np.object_))
        deadline = time.monotonic() + 120
        while not any(sample.batch for sample in sampler.samples):
            client.infer("toy_embedder", [text])
            assert time.monotonic() < deadline
        client.close()
    busy = next(sample for sample in sampler.samples if sample.batch)
    assert busy.batch == 2
    assert busy.queue_ms is not None
    assert (sampler.samples[0].memory_bytes or 0) > 10_000_000
    assert busy.at == pytest.approx(time.time(), abs=120)


def test_the_tool_is_seen_too() -> None:
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with Sampler(Watch(), ("m",), lambda: spinning.pid, interval=0.1) as sampler:
            deadline = time.monotonic() + 120
            while not any(sample.client_cpu for sample in sampler.samples):
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        spinning.kill()
        spinning.wait()
    assert sampler.samples[-1].queue_ms is None


def test_who_is_not_there_is_not_watched() -> None:
    assert find_watch("127.0.0.1:9").pids == ()
