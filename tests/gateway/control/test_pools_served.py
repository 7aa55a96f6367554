"""What Envoy does on the way to one pool: deadlines, breakers, tries, TLS, names; on real servers."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from gateway.control.admin import Admin
from gateway.envoy.typed import extension
from gateway.identity import POOL_HEADER, SERVER_HEADER
from gateway.paths import RunPaths
from gateway.triton.channel import TritonChannel, api_error
from gateway.triton.tensors import text_request
from tests.gateway.control.loopback import (
    Fleet,
    ask,
    lone_envoy,
    members,
    one_pool,
    options_on,
    server_of,
    servers_of,
    streams,
    tritons,
    until,
)
from tests.gateway.envoy.certificates import Authority
from tritonforge.server import TritonServer

MAIN = [(POOL_HEADER, "main")]


def infer(channel: TritonChannel, timeout: float = 120, pool: str = "main") -> Any:
    request = text_request("embed", "", ["a calm sea"], ["embedding"])
    return channel.stub.ModelInfer(request, timeout=timeout, metadata=[(POOL_HEADER, pool)])


async def outcome(call: Any) -> str:
    """``OK``, or the status and what it says."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "OK"


@contextmanager
def standing_still(triton: TritonServer) -> Iterator[None]:
    os.kill(triton.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(triton.pid, signal.SIGCONT)


async def test_the_header_names_the_pool_and_the_answer_its_server(
    triton: TritonServer, folder: Path
) -> None:
    with lone_envoy(one_pool(servers_of(triton)), folder) as paths:
        channel = TritonChannel(f"unix:{paths.egress}")
        call = infer(channel)
        assert (await call).raw_output_contents
        assert dict(await call.initial_metadata())[SERVER_HEADER] == triton.grpc_url
        assert "names no pool" in await outcome(infer(channel, pool="other"))
        await channel.close()
    assert paths.egress.stat().st_mode & 0o777 == 0o600


async def test_more_than_the_breaker_allows_is_refused_at_once(triton: TritonServer, folder: Path) -> None:
    breakers = {"max_requests": 3}
    with lone_envoy(one_pool(servers_of(triton), resilience={"breakers": breakers}), folder) as paths:
        channel = TritonChannel(f"unix:{paths.egress}")
        with standing_still(triton):
            calls = [asyncio.create_task(outcome(infer(channel))) for _ in range(10)]
            done: set[asyncio.Task[str]] = set()
            async with asyncio.timeout(60):
                while len(done) < 7:
                    done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            done, waiting = await asyncio.wait(calls, timeout=0.3)
        assert len(waiting) == 3
        assert all("overflow" in call.result() for call in done)
        assert api_error("embed", grpc.StatusCode.UNAVAILABLE, done.pop().result()).code.name == "overloaded"
        assert await asyncio.gather(*waiting) == ["OK"] * 3
        await channel.close()


async def test_no_request_outlives_its_time(triton: TritonServer, folder: Path) -> None:
    resilience = {"request_timeout_s": 1, "stream_timeout_s": 3}
    with lone_envoy(one_pool(servers_of(triton), resilience=resilience), folder) as paths:
        channel = TritonChannel(f"unix:{paths.egress}")
        assert await outcome(infer(channel)) == "OK"
        with standing_still(triton):
            started = time.monotonic()
            assert (await outcome(infer(channel))).startswith("DEADLINE_EXCEEDED")
            assert 0.9 < time.monotonic() - started < 20  # long before the caller's own time is over
        started = time.monotonic()
        async with streams(paths, 1) as (call,):
            assert await ask(call) == 1
            # Cut off in the middle, where Envoy cannot always say why any more.
            assert await call.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED)
            assert 2.8 < time.monotonic() - started < 20
        await channel.close()


async def test_a_silent_stream_is_asked_elsewhere(fleet: Fleet, folder: Path) -> None:
    with fleet.borrow(2) as (first, second):
        config = one_pool(
            servers_of(first),
            servers_of(second),
            resilience={"stream_idle_timeout_s": 1, "retries": {"attempts": 1}},
        )
        with lone_envoy(config, folder) as paths, standing_still(first):
            async with streams(paths, 3) as calls:
                started = time.monotonic()
                assert await asyncio.gather(*(ask(call, last=True) for call in calls)) == [1] * 3
                assert 0.9 < time.monotonic() - started < 20


async def test_a_full_queue_puts_no_server_out(gateway_repository: Path, folder: Path) -> None:
    repository = folder / "repository"
    shutil.copytree(gateway_repository, repository)
    config_file = repository / "embed_engine" / "config.pbtxt"
    queue = "dynamic_batching {\n  default_queue_policy { max_queue_size: 1 }\n"
    text, count = re.subn(r"dynamic_batching \{\n", queue, config_file.read_text(encoding="utf-8"))
    assert count == 1
    config_file.write_text(text, encoding="utf-8")
    with tritons(repository, 1, folder / "triton.log") as (server,):
        config = one_pool(servers_of(server), resilience={"retries": {"attempts": 0}})
        with lone_envoy(config, folder) as paths:
            channel = TritonChannel(f"unix:{paths.egress}")
            answers = await asyncio.gather(*(outcome(infer(channel)) for _ in range(200)))
            refused = [answer for answer in answers if answer != "OK"]
            assert len(refused) > 20
            assert all(answer.startswith("UNAVAILABLE") and "queue" in answer for answer in refused)
            async with Admin(paths.admin) as admin:
                (ejections,) = (await admin.stats(r"a/grpc.*ejections_enforced_total$")).values()
            assert ejections == 0
            assert (await members(paths, "main/a/grpc"))[server.grpc_url].flags == "healthy"
            await channel.close()


async def test_tls_to_the_servers_is_verified(gateway_repository: Path, folder: Path) -> None:
    authority = Authority()
    certificate, key = authority.issue(folder, "triton")
    right = authority.write(folder / "ca.pem")
    wrong = Authority().write(folder / "other.pem")
    options = options_on((0, 0, 0)).model_copy(
        update={
            "extra_args": (
                "--grpc-use-ssl=1",
                f"--grpc-server-cert={certificate}",
                f"--grpc-server-key={key}",
            )
        }
    )
    with (
        (folder / "triton.log").open("wb") as log,
        TritonServer(gateway_repository, options, log_sink=log) as server,
    ):
        for name, ca_file in (("right", right), ("wrong", wrong)):
            (folder / name).mkdir()
            config = one_pool({**servers_of(server), "ca_file": str(ca_file)})
            with lone_envoy(config, folder / name) as paths:
                channel = TritonChannel(f"unix:{paths.egress}")
                answer = await outcome(infer(channel))
                await channel.close()
            assert (answer == "OK") == (name == "right"), answer


async def test_a_headless_service_is_followed(triton: TritonServer, folder: Path) -> None:
    """A DNS server stands for the cluster's; Envoy asks it for the service as a pod would."""
    ports = server_of(triton)
    service = {
        "service": "triton",
        "namespace": "models",
        "http_port": ports["http_port"],
        "grpc_port": ports["grpc_port"],
        "refresh_s": 1,
    }
    grpc_port = ports["grpc_port"]
    with _dns("triton.models.svc.cluster.local", ["127.0.0.1"]) as (port, found):
        resolver = extension(
            "envoy.network.dns_resolver.cares",
            "extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            resolvers=[{"socket_address": {"address": "127.0.0.1", "port_value": port, "protocol": "UDP"}}],
        )
        config = one_pool({"kubernetes": service}, resilience={"health": {"interval_s": 0.5}})
        with lone_envoy(config, folder, typed_dns_resolver_config=resolver) as paths:
            channel = TritonChannel(f"unix:{paths.egress}")
            assert await outcome(infer(channel)) == "OK"
            found.append("127.0.0.2")
            await until(lambda: _are(paths, f"127.0.0.1:{grpc_port}", f"127.0.0.2:{grpc_port}"))
            # Nobody is there, so it gets nothing before it passes its first check.
            assert [await outcome(infer(channel)) for _ in range(10)] == ["OK"] * 10
            del found[1]
            await until(lambda: _are(paths, f"127.0.0.1:{grpc_port}"))
            await channel.close()


async def _are(paths: RunPaths, *addresses: str) -> bool:
    return set(await members(paths, "main/a/grpc")) == set(addresses)


@contextmanager
def _dns(name: str, addresses: list[str]) -> Iterator[tuple[int, list[str]]]:
    """A DNS server that knows the IPv4 addresses of one name."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            query, sender = self.request
            end = query.index(b"\0", 12) + 5  # name, type, class
            (kind,) = struct.unpack("!H", query[end - 4 : end - 2])
            asked = ".".join(_labels(query[12 : end - 5])).lower()
            known = addresses if asked == name and kind == 1 else []
            status = 0x8580 if asked == name else 0x8583
            header = struct.pack("!2sHHHHH", query[:2], status, 1, len(known), 0, 0)
            records = [
                struct.pack("!HHHIH4B", 0xC00C, 1, 1, 1, 4, *map(int, address.split(".")))
                for address in known
            ]
            sender.sendto(header + query[12:end] + b"".join(records), self.client_address)

    with socketserver.ThreadingUDPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], addresses
        finally:
            server.shutdown()
            thread.join()


def _labels(encoded: bytes) -> Iterator[str]:
    while encoded:
        yield encoded[1 : encoded[0] + 1].decode()
        encoded = encoded[encoded[0] + 1 :]
