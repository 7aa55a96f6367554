"""One child process of the gateway: started, watched, ended."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence

from tritonforge.server.process import end_with_parent


class Child:
    """A process that ends with this one.

    Attributes:
        name: What to call it in messages.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        """Take a running process; :meth:`start` makes one."""
        self.name = name
        self._process = process

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str], environment: Mapping[str, str], log: int | None = None
    ) -> Child:
        """Start a process.

        Args:
            name: What to call it in messages.
            command: Program and arguments; no secrets, for anybody may read them.
            environment: All of its environment.
            log: File descriptor for its output and errors; None: this process's own.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C goes to every process of a terminal's group; only this one shall decide when to stop.
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        return cls(name, process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status; negative for a signal, None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its end."""
        return await self._process.wait()

    async def end(self, grace_s: float) -> None:
        """Ask it to end, and kill it if it does not."""
        if self.status is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def how_it_ended(self) -> str:
        """For messages."""
        status = self.status
        if status is None:
            return "runs"
        return (
            f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        )
