"""A real Redis that a test may kill, and callers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.identity import Identity
from gateway.tasks.call import Call
from tritonforge.server.ports import free_ports

BINARY = shutil.which("redis-server")
PASSWORD = "s3cret-of-redis"


class Redis:
    """A server of its own on a free port of 127.0.0.1."""

    def __init__(self, folder: Path, password: str = "") -> None:
        self.folder, self.password = folder, password
        self.port = free_ports(1)[0]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert BINARY is not None
        settings = f"port {self.port}\nbind 127.0.0.1\nsave ''\nappendonly no\ndir {self.folder}\n"
        if self.password:
            settings += f"requirepass {self.password}\n"
        self.process = subprocess.Popen([BINARY, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert self.process.stdin is not None
        self.process.stdin.write(settings.encode())
        self.process.stdin.close()
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None
                time.sleep(0.02)

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait(60)
            self.process = None


def running(folder: Path, password: str = "") -> Iterator[Redis]:
    if BINARY is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    redis = Redis(folder, password)
    redis.start()
    yield redis
    redis.kill()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    yield from running(tmp_path)


@pytest.fixture
def guarded_redis(tmp_path: Path) -> Iterator[Redis]:
    """It wants a password."""
    yield from running(tmp_path, PASSWORD)


@pytest.fixture
def call_of() -> Callable[[str], Call]:
    """A request of somebody, with two minutes to go."""
    return lambda subject: Call(Identity(subject, frozenset()), time.monotonic() + 120)
