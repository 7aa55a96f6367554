"""Which response cache a server gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tritonforge.errors import ServerError, UsageError
from tritonforge.server import ServerOptions, locate_tritonserver
from tritonforge.server.caches import cache_arguments
from tritonforge.server.repository import wants_response_cache

HERE = Path("nowhere")


@pytest.mark.parametrize(
    "address",
    ["", "redis", "redis:", ":6379", "redis:0", "redis:65536", "redis:six", "redis://:secret@redis:6379"],
)
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    with pytest.raises(UsageError) as error:
        cache_arguments(ServerOptions(cache_redis=address), locate_tritonserver(), HERE, ())
    assert "secret" not in str(error.value)
    assert "TRITONCACHE_REDIS_PASSWORD" in (error.value.mend or "")


def test_one_cache_is_enough() -> None:
    options = ServerOptions(cache_redis="redis:6379", cache_size_bytes=1 << 20)
    with pytest.raises(UsageError, match="one response cache"):
        cache_arguments(options, locate_tritonserver(), HERE, ())


def test_the_wheel_has_no_cache_in_redis() -> None:
    installation = locate_tritonserver()
    if installation.kind != "embedded":
        pytest.skip("tritonserver is not the wheel's here")
    with pytest.raises(ServerError, match="no response cache in Redis") as error:
        cache_arguments(ServerOptions(cache_redis="redis:6379"), installation, HERE, ())
    assert "container" in (error.value.mend or "")


@pytest.mark.parametrize(("address", "host"), [("redis.local:6380", "redis.local"), ("[::1]:6380", "::1")])
def test_an_installation_with_it(tmp_path: Path, address: str, host: str) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "libtritoncache_redis.so").touch()
    installation = replace(locate_tritonserver(), cache_directory=tmp_path)
    assert cache_arguments(ServerOptions(cache_redis=address), installation, HERE, ()) == [
        f"--cache-config=redis,host={host}",
        "--cache-config=redis,port=6380",
        "--cache-config=redis,connect_timeout=1000",
        "--cache-config=redis,socket_timeout=1000",
        f"--cache-directory={tmp_path}",
    ]


def test_a_part_of_a_model_may_want_it(toy_repository: Path) -> None:
    assert not wants_response_cache(toy_repository, ["front"])
    config = toy_repository / "slow" / "config.pbtxt"
    config.write_text(config.read_text() + "response_cache { enable: true }\n")
    assert wants_response_cache(toy_repository, ["front"])
    config.unlink()
    assert not wants_response_cache(toy_repository, ["front"])
