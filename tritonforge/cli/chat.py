"""``tritonforge chat``: talk to a generation model in the terminal."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tritonforge.cli.extras import require
from tritonforge.cli.generation import (
    MaxTokens,
    Protocol,
    Repository,
    Seed,
    Temperature,
    TopK,
    TopP,
    Url,
    address_of,
    figures,
    generates,
    pace,
    reported,
    sampling,
    write_piece,
)
from tritonforge.console import console, err_console
from tritonforge.errors import UsageError

if TYPE_CHECKING:
    from clients import Client, Completion, Sampling

_HELP = "/reset forgets the chat, /system TEXT sets the system's message (and forgets the chat), /quit ends"
_MISSED_S = 0.2  # a signal that is not handled by then waits for the next key


def chat(
    model: Annotated[str, typer.Argument(help="Name of a generation model, for example smollm2.")],
    url: Url = None,
    protocol: Protocol = "grpc",
    system: Annotated[str | None, typer.Option(help="The system's message, before the first turn.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    timeout: Annotated[float, typer.Option(help="Seconds to the end of an answer.")] = 300.0,
    repository: Repository = Path("model_repository"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answers alone.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print each answer as a line of JSON.")] = False,
) -> None:
    """Talk to MODEL on a running server; each line is a turn, and the answer comes as it is generated.

    Ctrl-C stops an answer (on the server too), Ctrl-D or /quit ends, /reset forgets the chat, /system TEXT
    sets the system's message. Where standard input is no terminal, its lines are the turns.
    """
    require("chat", "client", "tritonclient")
    from clients import Client

    address = address_of(url, protocol)
    options = sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    terminal = sys.stdin.isatty() and not json_
    with (
        reported(model, address, repository),
        Client(address, model, protocol=protocol, timeout=timeout) as client,
    ):
        if not generates(client):
            raise UsageError(
                "it does not generate text",
                where=model,
                mend=f'send it texts with: tritonforge predict {model} "TEXT"',
            )
        if terminal and not quiet:
            err_console.print(Text(f"{model} on {address}; {_HELP}; Ctrl-C stops an answer", "dim"))
        Chat(client, options, system, quiet=quiet, as_json=json_, terminal=terminal).run()


class Chat:
    """One conversation.

    Args:
        client: Of a model that generates.
        options: Of every answer.
        system: The system's message.
        quiet: No line of figures after an answer.
        as_json: Print JSON lines.
        terminal: A person types, who goes on after an error and after Ctrl-C; a pipe ends with them.
    """

    def __init__(
        self,
        client: Client,
        options: Sampling,
        system: str | None = None,
        *,
        quiet: bool = False,
        as_json: bool = False,
        terminal: bool = False,
    ) -> None:
        """Begin with the system's message alone."""
        self.client = client
        self.options = options
        self.quiet = quiet
        self.as_json = as_json
        self.terminal = terminal
        self.history: list[dict[str, str]] = []
        self.reset(system)

    def reset(self, system: str | None = None) -> None:
        """Forget the turns; keep the system's message unless a new one is given."""
        kept = [turn for turn in self.history if turn["role"] == "system"]
        self.history = kept if system is None else [{"role": "system", "content": system}]

    def run(self) -> None:
        """Answer line after line until there is no more."""
        from clients import ClientError

        for line in _typed() if self.terminal else (line.rstrip("\r\n") for line in sys.stdin):
            if not line.strip():
                continue
            if line.startswith("/"):
                if line.split()[0] in ("/quit", "/exit"):
                    return
                self.command(line)
                continue
            try:
                self.answer(line)
            except KeyboardInterrupt:  # just before or after the answer
                if not self.terminal:
                    raise
            except ClientError as error:
                if not self.terminal:
                    raise
                err_console.print(Text.assemble(("error  ", "bold red"), error.message), soft_wrap=True)
                mend = error.hint or "/reset forgets the chat until now, if it has become too long"
                err_console.print(Text.assemble((" mend  ", "green"), mend), soft_wrap=True)

    def command(self, line: str) -> None:
        """Obey a line that begins with a slash."""
        name, _, rest = line.partition(" ")
        if name == "/reset":
            self.reset()
        elif name == "/system" and rest.strip():
            self.reset(rest.strip())
        else:
            err_console.print(Text(_HELP, "dim"), soft_wrap=True)

    def answer(self, question: str) -> Completion:
        """Ask, print what comes, and keep both turns, though Ctrl-C may have cut the answer.

        Raises:
            ClientError: The question is then not kept.
        """
        asked = [*self.history, {"role": "user", "content": question}]
        with self.client.chat_stream(asked, **self.options) as stream, _noticing_ctrl_c() as pressed:
            try:
                for piece in stream:
                    if not self.as_json:
                        write_piece(piece.text)
                    if pressed.is_set():
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                stream.close()
                if not self.terminal:
                    raise
            finally:
                if not self.as_json and stream.completion.text:
                    console.print()
            found = stream.completion
        if found.text:
            self.history = [*asked, {"role": "assistant", "content": found.text}]
        if self.as_json:
            sys.stdout.write(json.dumps({"input": question, **figures(found)}) + "\n")
            sys.stdout.flush()
        elif not self.quiet:
            err_console.print(Text(pace(found), "dim"), soft_wrap=True)
        return found


def _typed() -> Iterator[str]:
    """Lines that a person types, with readline's editing where Python has it."""
    with suppress(ImportError):
        import readline  # noqa: F401 - changes input()
    with _missed_ctrl_c_sent_again():
        while True:
            try:
                yield input("> ")
            except EOFError:
                console.print()
                return
            except KeyboardInterrupt:
                err_console.print(Text("\nCtrl-D or /quit ends", "dim"))


@contextmanager
def _missed_ctrl_c_sent_again() -> Iterator[None]:
    """Have Ctrl-C end ``input()`` wherever it falls.

    CPython's readline waits for keys without a look at signals that came just before, or that the kernel gave
    to another thread (``readline_until_enter_or_signal`` in Modules/readline.c); only one that interrupts the
    wait itself is seen.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = threading.Event()
    main = threading.main_thread().ident
    there, here = socket.socketpair()
    here.setblocking(False)

    def note(number: int, frame: FrameType | None) -> None:
        seen.set()
        signal.default_int_handler(number, frame)

    def watch() -> None:
        with there:
            while arrived := there.recv(64):  # numbers of signals, until the other end is closed
                if signal.SIGINT in arrived and main is not None:
                    while not seen.wait(_MISSED_S):
                        signal.pthread_kill(main, signal.SIGINT)
                    with suppress(BlockingIOError):
                        there.recv(64, socket.MSG_DONTWAIT)  # those that were sent again
                    seen.clear()

    threading.Thread(target=watch, name="ctrl-c", daemon=True).start()
    before, descriptor = signal.signal(signal.SIGINT, note), signal.set_wakeup_fd(here.fileno())
    try:
        yield
    finally:
        seen.set()  # nothing is sent again any more
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGINT, before)
        here.close()


@contextmanager
def _noticing_ctrl_c() -> Iterator[threading.Event]:
    """Remember Ctrl-C besides raising: an exception raised within a callback of gRPC's is lost there."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        pressed.set()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
