from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from tests.tritonforge.conftest import wait_until
from tritonforge.errors import RepositoryError, ServerError
from tritonforge.server import ServerOptions, TritonServer
from tritonforge.server.watchdog import StubWatchdog, scan_stubs


def ask(server: TritonServer, model: str, text: str, timeout: float = 120.0) -> httpx.Response:
    url = f"{server.http_url}/v2/models/{model}/generate"
    return httpx.post(url, json={"text": text}, timeout=timeout, trust_env=False)


def regions(server: TritonServer) -> list[str]:
    return [path.name for path in Path("/dev/shm").glob(f"{server._shm_prefix}*")]


def test_loads_the_models_and_nothing_else(toy_server: TritonServer) -> None:
    assert toy_server.models == ("front", "slow")
    index = httpx.post(f"{toy_server.http_url}/v2/repository/index", timeout=60, trust_env=False).json()
    ready = {entry["name"] for entry in index if entry.get("state") == "READY"}
    assert ready == {"front", "slow"}
    assert ask(toy_server, "front", "hello").json()["echo"] == "hello"


def test_metrics_have_latency_counters_and_summaries(toy_server: TritonServer) -> None:
    ask(toy_server, "front", "hello")
    text = httpx.get(toy_server.metrics_url, timeout=60, trust_env=False).text
    assert 'nv_inference_request_duration_us{model="slow",version="1"}' in text
    assert 'nv_inference_request_summary_us{model="slow",version="1",quantile="0.99"}' in text


def test_listens_on_loopback_only(toy_server: TritonServer) -> None:
    listening = psutil.Process(toy_server.pid).net_connections(kind="tcp")
    addresses = {
        each.laddr[0].removeprefix("::ffff:") for each in listening if each.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_grpc_answers(toy_server: TritonServer) -> None:
    grpcclient = pytest.importorskip("tritonclient.grpc")
    with grpcclient.InferenceServerClient(toy_server.grpc_url) as client:
        assert client.is_server_ready()
        assert client.is_model_ready("front")


def test_options_reach_the_server(toy_repository: Path, tmp_path: Path) -> None:
    options = ServerOptions(
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        engine_threads=3,
        cache_size_bytes=1 << 20,
        latency_summaries=False,
        models=("slow",),
    )
    with (tmp_path / "log").open("wb") as log, TritonServer(toy_repository, options, log_sink=log) as server:
        assert server.models == ("slow",)
        assert any("engine threads: 3" in line for line in server.log_tail())
        assert any("cache_enabled" in line and "| 1 " in line for line in server.log_tail())
        metrics = httpx.get(server.metrics_url, timeout=60, trust_env=False).text
        assert "nv_inference_request_duration_us" in metrics
        assert "summary_us" not in metrics
    assert b"engine threads: 3" in (tmp_path / "log").read_bytes()


def test_a_model_that_enables_the_cache_gets_one(
    toy_repository: Path, toy_options: ServerOptions, tmp_path: Path
) -> None:
    config = toy_repository / "front" / "config.pbtxt"
    config.write_text(config.read_text() + "response_cache { enable: true }\n")
    with (
        (tmp_path / "log").open("wb") as log,
        TritonServer(toy_repository, toy_options, log_sink=log) as server,
    ):
        for _ in range(2):
            assert ask(server, "front", "twice").json()["echo"] == "twice"
        metrics = httpx.get(server.metrics_url, timeout=60, trust_env=False).text
    assert 'nv_cache_num_hits_per_model{model="front",version="1"} 1' in metrics


def test_stop_answers_requests_in_flight_and_leaves_nothing(toy_server: TritonServer, tmp_path: Path) -> None:
    pid, stubs = toy_server.pid, scan_stubs(toy_server.pid)[0]
    prefix_regions = regions(toy_server)
    assert stubs and prefix_regions
    begun = tmp_path / "begun"
    with ThreadPoolExecutor() as pool:
        in_flight = pool.submit(ask, toy_server, "front", f"sleep 2 {begun}")
        assert wait_until(begun.exists)
        assert toy_server.stop() == 0
        assert in_flight.result().json()["echo"] == f"sleep 2 {begun}"
    assert not psutil.pid_exists(pid)
    assert not any(psutil.pid_exists(stub.pid) for stub in stubs)
    assert not regions(toy_server)


def test_stop_answers_requests_over_grpc_too(toy_server: TritonServer, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    order = f"sleep 2 {begun}".encode()
    grpcclient = pytest.importorskip("tritonclient.grpc")
    with grpcclient.InferenceServerClient(toy_server.grpc_url) as client:
        text = grpcclient.InferInput("text", [1, 1], "BYTES")
        text.set_data_from_numpy(np.array([[order]], dtype=object))
        with ThreadPoolExecutor() as pool:
            in_flight = pool.submit(client.infer, "front", [text])
            assert wait_until(begun.exists)
            assert toy_server.stop() == 0
            assert in_flight.result().as_numpy("echo").tolist() == [[order]]


def test_stop_does_not_wait_for_idle_connections(toy_server: TritonServer) -> None:
    with httpx.Client(base_url=toy_server.http_url, timeout=60, trust_env=False) as client:
        client.get("/v2/health/live").raise_for_status()
        assert toy_server.stop() == 0  # it would be 1 after the exit timeout
    assert not regions(toy_server)


@pytest.mark.parametrize("how", ["idle", "in flight", "by its own request"])
def test_a_dead_stub_comes_back(toy_server: TritonServer, how: str, tmp_path: Path) -> None:
    (stub,) = scan_stubs(toy_server.pid)[0]
    if how == "idle":
        os.kill(stub.pid, signal.SIGKILL)
    elif how == "in flight":
        with ThreadPoolExecutor() as pool:
            lost = pool.submit(ask, toy_server, "front", f"sleep 60 {tmp_path}/begun")
            assert wait_until((tmp_path / "begun").exists)
            os.kill(stub.pid, signal.SIGKILL)
            assert "not healthy" in lost.result().json()["error"]
    else:
        assert "not healthy" in ask(toy_server, "front", "die now").json()["error"]

    def answers(model: str) -> bool:
        return ask(toy_server, model, "again").is_success

    assert wait_until(lambda: answers("front"))
    assert answers("slow")
    (fresh,) = scan_stubs(toy_server.pid)[0]
    assert fresh.pid != stub.pid
    # Status 0: the dead instance did not make the stop run into its exit timeout.
    assert toy_server.stop() == 0
    assert not psutil.pid_exists(fresh.pid)
    assert not regions(toy_server)


def test_a_request_that_kills_stubs_again_and_again_does_not_end_the_service(
    toy_server: TritonServer,
) -> None:
    for _ in range(3):  # each hits the fresh stub as soon as it answers at all
        ask(toy_server, "front", "die now")
        assert wait_until(lambda: ask(toy_server, "front", "again").is_success)


def test_a_stub_that_died_unseen_comes_back_too(toy_server: TritonServer) -> None:
    assert toy_server._watchdog is not None
    toy_server._watchdog.stop()
    os.kill(scan_stubs(toy_server.pid)[0][0].pid, signal.SIGKILL)
    assert wait_until(lambda: scan_stubs(toy_server.pid)[0] == [])
    toy_server._watchdog = StubWatchdog(toy_server.pid, toy_server.http_url)
    toy_server._watchdog._model_of[-1] = "slow"  # all it has seen is an earlier stub of the model
    toy_server._watchdog.start()
    assert wait_until(lambda: ask(toy_server, "front", "again").is_success)


def test_a_reload_that_fails_is_tried_again(toy_server: TritonServer) -> None:
    source = toy_server.repository / "slow" / "1" / "model.py"
    good = source.read_text()
    source.write_text("raise RuntimeError('half written')\n")
    (stub,) = scan_stubs(toy_server.pid)[0]
    os.kill(stub.pid, signal.SIGKILL)
    assert wait_until(lambda: any("half written" in line for line in toy_server.log_tail()))
    source.write_text(good)
    assert wait_until(lambda: ask(toy_server, "front", "again").is_success)


def test_one_dead_stub_of_two_is_replaced(
    toy_repository: Path, toy_options: ServerOptions, tmp_path: Path
) -> None:
    config = toy_repository / "slow" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    with (
        (tmp_path / "log").open("wb") as log,
        TritonServer(toy_repository, toy_options, log_sink=log) as server,
    ):
        before = {stub.pid for stub in scan_stubs(server.pid)[0]}
        assert len(before) == 2
        os.kill(min(before), signal.SIGKILL)
        assert wait_until(lambda: len({s.pid for s in scan_stubs(server.pid)[0]} - before) == 2)
        # The stubs are there some milliseconds before their model takes the requests.
        assert wait_until(lambda: all(ask(server, "front", "x").is_success for _ in range(8)))


def test_a_dead_stub_does_not_cut_requests_in_flight_at_stop(
    toy_server: TritonServer, tmp_path: Path
) -> None:
    (stub,) = scan_stubs(toy_server.pid)[0]
    os.kill(stub.pid, signal.SIGKILL)
    assert wait_until(lambda: ask(toy_server, "front", "again").is_success)
    with ThreadPoolExecutor() as pool:
        in_flight = pool.submit(ask, toy_server, "front", f"sleep 5 {tmp_path}/begun")
        assert wait_until((tmp_path / "begun").exists)
        assert toy_server.stop() == 0
        assert in_flight.result().is_success


def test_a_new_version_is_loaded_from_disk_after_a_reload(toy_server: TritonServer) -> None:
    (stub,) = scan_stubs(toy_server.pid)[0]
    os.kill(stub.pid, signal.SIGKILL)
    assert wait_until(lambda: ask(toy_server, "front", "again").is_success)
    first = toy_server.repository / "slow" / "1" / "model.py"
    second = toy_server.repository / "slow" / "2"
    second.mkdir()
    (second / "model.py").write_text(first.read_text())
    load = f"{toy_server.http_url}/v2/repository/models/slow/load"
    assert httpx.post(load, trust_env=False, timeout=120.0).is_success
    assert ask(toy_server, "slow", "x").json()["model_version"] == "2"
    config = httpx.get(f"{toy_server.http_url}/v2/models/slow/config", timeout=60, trust_env=False).json()
    assert "tritonforge_reload" not in config["parameters"]


def test_a_killed_server_leaves_no_orphans(toy_server: TritonServer) -> None:
    (stub,) = scan_stubs(toy_server.pid)[0]
    toy_server.kill()
    assert toy_server.stop() == -signal.SIGKILL
    assert not psutil.pid_exists(stub.pid) or psutil.Process(stub.pid).status() == psutil.STATUS_ZOMBIE
    assert not regions(toy_server)


def test_a_model_that_fails_to_load_is_named_with_the_reason(
    toy_repository: Path, toy_options: ServerOptions, add_model: Callable[..., None], tmp_path: Path
) -> None:
    config = (toy_repository / "slow" / "config.pbtxt").read_text()
    add_model(toy_repository, "broken", config, "import a_module_that_is_not_there\n")
    with (tmp_path / "log").open("wb") as log:
        server = TritonServer(toy_repository, toy_options, log_sink=log)
        with pytest.raises(ServerError) as caught:
            server.start()
    assert "'broken'" in caught.value.what
    assert "a_module_that_is_not_there" in caught.value.what
    assert "model.py(1)" in caught.value.what
    assert not regions(server)


def test_a_port_in_use_is_in_the_error(toy_repository: Path, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        options = ServerOptions(http_port=0, grpc_port=port, metrics_port=0)
        with (tmp_path / "log").open("wb") as log:
            server = TritonServer(toy_repository, options, log_sink=log)
            with pytest.raises(ServerError, match=str(port)):
                server.start()


def test_a_server_that_is_too_slow_is_not_left_running(
    toy_repository: Path, toy_options: ServerOptions, add_model: Callable[..., None], tmp_path: Path
) -> None:
    config = (toy_repository / "slow" / "config.pbtxt").read_text()
    add_model(
        toy_repository, "sleeper", config, "import time\ntime.sleep(4)\nclass TritonPythonModel: pass\n"
    )
    before = threading.active_count()
    with (tmp_path / "log").open("wb") as log:
        server = TritonServer(toy_repository, toy_options, log_sink=log)
        with pytest.raises(ServerError, match="not ready after 1 s"):
            server.start(timeout=1)
    assert server.returncode is None
    assert not regions(server)
    assert threading.active_count() <= before


def test_repository_errors_come_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="does not exist"):
        TritonServer(tmp_path / "nothing").start()
    with pytest.raises(RepositoryError, match=r"tritonforge build recipes/minilm\.yaml"):
        TritonServer(tmp_path).start()


def test_an_unknown_model_is_refused(toy_repository: Path) -> None:
    with pytest.raises(RepositoryError, match=r"no model named other[\s\S]*front, slow"):
        TritonServer(toy_repository, ServerOptions(models=("other", "slow"))).start()
