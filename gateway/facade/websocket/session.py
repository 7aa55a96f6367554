"""One open socket: reads messages, runs one request at a time, sends its frames."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any

import orjson
import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.errors import ApiError
from gateway.facade.state import Facade, call_of
from gateway.facade.websocket.messages import (
    CancelMessage,
    GenerateMessage,
    PingMessage,
    RequestId,
    error_frame,
    final_frame,
    id_of,
    read_message,
    token_frame,
)
from gateway.facade.websocket.protocol import CUT
from gateway.identity import CLOCK_SKEW_S, Identity
from gateway.security.api_keys import KEY_SUBJECT
from gateway.tasks.call import Call
from gateway.tasks.generation import End

logger = structlog.get_logger(__name__)

_INTERNAL_ERROR = 1011
_TRY_AGAIN_LATER = 1013


class Session:
    """Serves an accepted socket until it closes.

    Args:
        socket: Accepted.
        facade: What serves.
    """

    def __init__(self, socket: WebSocket, facade: Facade) -> None:
        """Wait for the first message in :meth:`run`."""
        self._socket = socket
        self._facade = facade
        self._names = itertools.count(1)
        self._run: _Run | None = None
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Read until the caller leaves; what runs then is cancelled on the server."""
        try:
            while (message := await self._socket.receive())["type"] == "websocket.receive":
                data = message.get("text")
                await self._handle(message["bytes"] if data is None else data)
        except WebSocketDisconnect:
            pass
        except Exception as error:
            logger.error("fault", path=self._socket.url.path, exc_info=error)
            await self._close(_INTERNAL_ERROR, "a fault of the gateway")
        finally:
            await self._stop()

    async def _handle(self, data: str | bytes) -> None:
        try:
            message = read_message(data, self._facade.config.limits)
            if isinstance(message, PingMessage):
                await self.send({"pong": message.ping})
            elif isinstance(message, CancelMessage):
                await self._cancel(message)
            else:
                self._start(message)
        except ApiError as error:
            await self.send(error_frame(id_of(data, self._facade.config.limits), error))

    def _start(self, message: GenerateMessage) -> None:
        if self._task is not None and not self._task.done():
            raise ApiError(
                "busy", "a request runs on this socket", mend="wait for is_final, cancel it, or open another"
            )
        self._check_credential()
        name = message.id if message.id is not None else str(next(self._names))
        self._run = _Run(self, name, self._facade)
        self._task = asyncio.create_task(self._run.run(message))

    def _check_credential(self) -> None:
        """Envoy looked when the socket opened; since then a token may have ended, or a key been revoked."""
        identity = Identity.from_headers(self._socket.headers)
        over = identity.expires is not None and time.time() > identity.expires + CLOCK_SKEW_S
        keys = self._facade.keys
        if keys is not None and identity.subject.startswith(KEY_SUBJECT):
            over = not keys.holds(identity.subject)
        if over:
            raise ApiError(
                "unauthenticated", "the token or key is over", mend="open another socket with a new one"
            )

    async def _cancel(self, message: CancelMessage) -> None:
        """End what runs; its end may have crossed this message on the way, then there is nothing to do."""
        run = self._run
        if run is None or message.id not in (None, run.name):
            return
        if await self._stop():
            await self.send(run.final(None))

    async def _stop(self) -> bool:
        """Cancel what runs and wait for it; whether it was still at it."""
        task, self._task = self._task, None
        if task is None:
            return False
        task.cancel()
        await asyncio.wait((task,))
        return task.cancelled()

    def call(self) -> Call:
        """Who asks, with the time of a request that begins now."""
        return call_of(self._socket, streams=True)

    async def send(self, frame: Mapping[str, Any]) -> None:
        """Send one frame; a reader that takes nothing for too long is cut off.

        Raises:
            WebSocketDisconnect: The caller has gone.
        """
        text = orjson.dumps(frame).decode()
        try:
            async with asyncio.timeout(self._facade.config.websocket.send_timeout_s):
                await self._socket.send({"type": "websocket.send", "text": text})
        except TimeoutError:
            await self._close(_TRY_AGAIN_LATER, "frames were not read")
            raise WebSocketDisconnect(_TRY_AGAIN_LATER) from None

    async def _close(self, code: int, reason: str) -> None:
        cut = self._socket.scope.get("extensions", {}).get(CUT)
        if cut is not None:
            cut(code, reason)
        else:
            await self._socket.close(code, reason)


class _Run:
    """One request on a socket."""

    def __init__(self, session: Session, name: RequestId, facade: Facade) -> None:
        self.name = name
        self._session = session
        self._facade = facade
        self._start = time.perf_counter()
        self._first: float | None = None
        self._tokens = 0
        self._model = ""

    async def run(self, message: GenerateMessage) -> None:
        """Stream the answer; faults are told in a frame."""
        try:
            await self._stream(message)
        except WebSocketDisconnect:
            pass
        except ApiError as error:
            await self._tell(error)
        except Exception as error:
            logger.error("fault", path="/ws/generate", exc_info=error)
            await self._tell(
                ApiError("internal", "a fault of the gateway; it is in its log", mend="report it")
            )

    async def _stream(self, message: GenerateMessage) -> None:
        service = self._facade.generation
        call = self._session.call()
        ask = message.ask(self._facade.config.limits)
        model = await service.begin(call, message.model, ask, message.field)
        self._model = model.name
        end: End | None = None
        async with aclosing(service.stream(call, model, ask)) as deltas:
            async for delta in deltas:
                if delta.token_ids and self._first is None:
                    self._first = time.perf_counter()
                if delta.text or delta.token_ids:
                    await self._session.send(
                        token_frame(self.name, delta.text, delta.token_ids, self._tokens)
                    )
                    self._tokens += len(delta.token_ids)
                end = delta.end
        await self._session.send(self.final(end))

    def final(self, end: End | None) -> dict[str, Any]:
        """The last frame; ``end`` is None where the caller cancelled."""
        return final_frame(
            self.name,
            self._model,
            end,
            tokens=end.completion_tokens if end else self._tokens,
            latency_s=time.perf_counter() - self._start,
            first_s=None if self._first is None else self._first - self._start,
        )

    async def _tell(self, error: ApiError) -> None:
        with suppress(WebSocketDisconnect):
            await self._session.send(error_frame(self.name, error))
