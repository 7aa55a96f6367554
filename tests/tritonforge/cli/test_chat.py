"""`tritonforge chat`, in a pipe and in a real terminal, against a toy model that says prompts back."""

from __future__ import annotations

import ctypes
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clients import Client
from tritonforge.server import TritonServer

SLOW = "!slow 0.8 " + " ".join("abcdefghijklmnopqrstuvwxyz")


def piped(
    server: TritonServer, lines: str, *options: str, model: str = "toy_generator", url: str | None = None
) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "tritonforge.cli", "chat", model, "--url", url or server.grpc_url, *options],
        input=lines,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_lines_of_a_pipe_are_turns(text_server: TritonServer, protocol: str) -> None:
    url = text_server.grpc_url if protocol == "grpc" else text_server.http_address
    done = piped(text_server, "Say Sätze 漢字\n\nand more\n", "--protocol", protocol, url=url)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Say Sätze 漢字\nand more\n"
    assert "3 tokens, first after" in done.stderr and "tokens/s" in done.stderr


def test_quiet_and_quit(text_server: TritonServer) -> None:
    done = piped(text_server, "one\n/quit\ntwo\n", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\n", "")


def test_the_history_goes_along(text_server: TritonServer) -> None:
    lines = "one two\n!inputs\n/reset\n!inputs\n/system Be kind.\n!inputs\n"
    done = piped(text_server, lines, "--system", "Be brief.", "--temperature", "0.5", "--seed", "3", "--json")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[0]["output"] == "one two"
    assert (answers[0]["tokens_generated"], answers[0]["finish_reason"]) == (2, "stop")
    assert 0 < answers[0]["ttft_ms"] <= answers[0]["latency_ms"]
    seen = [json.loads(answer["output"]) for answer in answers[1:]]
    turns = [
        [f"{turn['role']}: {turn['content']}" for turn in json.loads(one["messages"][0])] for one in seen
    ]
    assert turns == [
        ["system: Be brief.", "user: one two", "assistant: one two", "user: !inputs"],
        ["system: Be brief.", "user: !inputs"],
        ["system: Be kind.", "user: !inputs"],
    ]
    assert {(one["temperature"][0], one["seed"][0]) for one in seen} == {(0.5, 3)}


def test_what_drives_a_terminal_is_not_printed(text_server: TritonServer) -> None:
    done = piped(text_server, "red \x1b[31m bell \x07 title \x1b]0;x\x07\tend\n", "--quiet")
    assert done.stdout == "red [31m bell  title ]0;x\tend\n"


def test_an_error_ends_a_pipe(text_server: TritonServer) -> None:
    done = piped(text_server, "one\n!break 1 a b\ntwo\n", "--quiet")
    assert done.returncode == 1
    assert done.stdout.startswith("one\n") and "two" not in done.stdout
    assert "asked to break" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("model", "options", "code", "says"),
    [
        ("absent", [], 1, "absent"),
        ("toy_embedder", [], 2, "tritonforge predict toy_embedder"),
        ("toy_generator", ["--url", "http://x:1"], 2, "without a scheme"),
        ("toy_generator", ["--url", "127.0.0.1:1"], 1, "tritonforge serve"),
    ],
)
def test_a_wrong_model_or_server(
    text_server: TritonServer, model: str, options: list[str], code: int, says: str
) -> None:
    done = piped(text_server, "one\n", *options, model=model)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr and "Traceback" not in done.stderr


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tritonforge.cli", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(slave)
        self.seen = ""

    def type(self, keys: str) -> None:
        """Type at the prompt; before it the terminal would echo the keys, and then readline again."""
        self.expect("> ")
        os.write(self.master, keys.encode())

    def interrupt_another_thread(self) -> None:
        """What the kernel may do with Ctrl-C; readline's wait is in the first thread and does not notice."""
        pid = self.process.pid
        other = max(int(task.name) for task in Path(f"/proc/{pid}/task").iterdir())
        assert other != pid
        assert ctypes.CDLL(None, use_errno=True).tgkill(pid, other, signal.SIGINT) == 0

    def expect(self, text: str) -> None:
        """Read until the text comes, and forget everything up to its end."""
        deadline = time.monotonic() + 120
        while text not in self.seen:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.master, 4096).decode(errors="replace")
                except OSError:  # the other end is closed
                    assert text in self.seen, f"no {text!r} in {self.seen!r}"
        self.seen = self.seen.partition(text)[2]


def _take_terminal() -> None:
    """Make standard input the controlling terminal, so that ^C becomes a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def cancelled(server: TritonServer) -> int:
    with Client(server.grpc_url, "toy_generator") as client:
        return int(json.loads(client.generate("!counts").text).get("cancelled", 0))


def test_a_terminal(text_server: TritonServer) -> None:
    before = cancelled(text_server)
    terminal = Terminal("chat", "toy_generator", "--url", text_server.grpc_url)
    try:
        terminal.expect("/reset forgets")
        terminal.type("hello there\r")
        terminal.expect("2 tokens, first after")
        terminal.type(f"{SLOW}\r")
        terminal.expect("x y z")  # the echo of what was typed
        terminal.expect("a b")
        os.write(terminal.master, b"\x03")
        terminal.expect("stopped")
        deadline = time.monotonic() + 60
        while cancelled(text_server) == before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert cancelled(text_server) == before + 1
        terminal.type("!invalid\r")
        terminal.expect("asked to be invalid")
        terminal.type("/help\r")
        terminal.expect("/quit ends")
        terminal.type("!inputs\r")
        terminal.expect("hello there")
        terminal.expect("a b")  # what came of the answer that was stopped
        terminal.expect("1 token, first after")
        for _ in range(3):  # at once after the prompt, when readline does not yet wait for keys
            terminal.type("\x03")
            terminal.expect("Ctrl-D or /quit ends")
        terminal.expect("> ")
        terminal.interrupt_another_thread()
        terminal.expect("Ctrl-D or /quit ends")
        terminal.type("\x04")
        assert terminal.process.wait(timeout=120) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)
