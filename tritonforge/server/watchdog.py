"""Makes a server answer again after one of its Python backend stubs died.

What tritonserver 2.51 does with a dead stub (killed, out of memory, a segfault in a library): it keeps
the model READY, answers each request to it after one second with "Stub process ... is not healthy", and
never starts the stub again. A plain load of the unchanged model does nothing. What does help is a load
with a changed configuration, so the model is loaded with its own configuration and one more parameter;
dependent ensembles are reloaded by Triton itself. Nothing is written to the repository, and the next
plain load after a change on disk reads from there again. The dead instance cannot be unloaded: it stays
in the server, idle, until the server ends.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tritonforge.server.locate import STUB_NAME

logger = logging.getLogger(__name__)

RELOAD_PARAMETER = "tritonforge_reload"
_MAX_PAUSE_S = 30.0
_CALM_S = 60.0


@dataclass(frozen=True)
class Stub:
    """One stub process of a server.

    Attributes:
        pid: Process id.
        model: Name of the model it runs.
    """

    pid: int
    model: str


def scan_stubs(server_pid: int) -> tuple[list[Stub], list[int]]:
    """List a server's stubs.

    Returns:
        The live ones, and the pids of the dead ones. tritonserver collects a stub that it ended
        itself, but never one that died; that one stays a zombie.
    """
    live: list[Stub] = []
    dead: list[int] = []
    try:
        children = psutil.Process(server_pid).children()
    except psutil.NoSuchProcess:
        return [], []
    for child in children:
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                dead.append(child.pid)
                continue
            command = child.cmdline()
        except psutil.Error:
            continue
        if len(command) > 1 and Path(command[0]).name == STUB_NAME:
            live.append(Stub(child.pid, Path(command[1]).parent.parent.name))  # .../MODEL/VERSION/model.py
    return live, dead


class StubWatchdog:
    """Watches a server's stubs in a thread, and reloads the model of one that died.

    A model whose stub dies again soon is reloaded after a growing pause, so that a stub that cannot
    live does not keep the machine busy.

    Args:
        server_pid: Process id of tritonserver.
        base_url: Its HTTP endpoint.
        interval_s: Seconds between two looks; a stub counts as dead when two looks see it so.
    """

    def __init__(self, server_pid: int, base_url: str, *, interval_s: float = 0.5) -> None:
        """Prepare; :meth:`start` begins to watch."""
        self._server_pid = server_pid
        self._client = httpx.Client(base_url=base_url, timeout=300.0, trust_env=False)
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stub-watchdog", daemon=True)
        self._model_of: dict[int, str] = {}
        self._suspected: set[int] = set()
        self._handled: set[int] = set()
        self._reload_at: dict[str, float] = {}
        self._reloads: dict[str, int] = {}
        self._last_death: dict[str, float] = {}

    def start(self) -> None:
        """Note the stubs that are there, and begin to watch."""
        self._look()
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; a reload that is under way is waited for briefly."""
        self._stop.set()
        self._thread.join(timeout=5.0)
        self._client.close()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self._look()
                self._reload_due()
            except (httpx.HTTPError, psutil.Error) as error:
                logger.warning("stub watchdog: %s", error)

    def _look(self) -> None:
        live, dead = scan_stubs(self._server_pid)
        self._model_of.update({stub.pid: stub.model for stub in live})
        fresh = set(dead) - self._handled
        for pid in fresh & self._suspected:
            self._handled.add(pid)
            if pid in self._model_of:
                self._note_death(pid, self._model_of[pid])
                continue
            # It died between two looks, as a request that kills stubs makes it: its model has none now.
            for model in set(self._model_of.values()) - {stub.model for stub in live}:
                self._note_death(pid, model)
        self._suspected = fresh - self._handled

    def _note_death(self, pid: int, model: str) -> None:
        now = time.monotonic()
        if now - self._last_death.get(model, 0.0) > _CALM_S:
            self._reloads[model] = 0
        self._last_death[model] = now
        pause = min(_MAX_PAUSE_S, 2.0 ** self._reloads[model] - 1.0)
        self._reload_at[model] = now + pause
        logger.warning(
            "stub of model '%s' (pid %d) %s; reloading the model%s",
            model,
            pid,
            _cause_of_death(pid),
            f" in {pause:.0f} s" if pause else "",
        )

    def _reload_due(self) -> None:
        now = time.monotonic()
        for model in [name for name, at in self._reload_at.items() if at <= now]:
            del self._reload_at[model]
            self._reloads[model] += 1
            error = self._reload(model)
            if error is None:
                logger.warning("model '%s' is reloaded", model)
            else:
                pause = min(_MAX_PAUSE_S, 2.0 ** self._reloads[model])
                logger.error(
                    "model '%s' could not be reloaded: %s; trying again in %.0f s", model, error, pause
                )
                self._reload_at[model] = time.monotonic() + pause

    def _reload(self, model: str) -> str | None:
        """Load the model anew; return what went wrong, or None."""
        try:
            answer = self._client.get(f"/v2/models/{model}/config")
            if answer.is_success:
                config = answer.json()
                config.setdefault("parameters", {})[RELOAD_PARAMETER] = {"string_value": str(time.time_ns())}
                body = {"parameters": {"config": json.dumps(config)}}
            else:
                body = {}  # not loaded any more: a plain load takes it from the repository
            answer = self._client.post(f"/v2/repository/models/{model}/load", json=body)
        except (httpx.HTTPError, ValueError) as error:
            return str(error)
        return None if answer.is_success else answer.text


def _cause_of_death(pid: int) -> str:
    """Say how a zombie ended, from the exit code in the last field of its stat file."""
    try:
        code = int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").split()[-1])
    except (OSError, ValueError, IndexError):
        return "died"
    number = code & 0x7F
    if number == 0:
        return f"exited with status {code >> 8}"
    try:
        return f"was killed by {signal.Signals(number).name}"
    except ValueError:
        return f"was killed by signal {number}"
