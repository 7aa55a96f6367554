"""Users of generators that answer token by token: Triton's gRPC and SSE, the front door's WebSocket."""

from __future__ import annotations

import json
import time
from typing import Any

import grpc
import websocket

from loadtest.errors import LoadTestError
from loadtest.generation_client import GRPC_METHOD, grpc_request, read_grpc
from loadtest.users.base import Answer, LoadUser, RequestError
from loadtest.users.http import JsonUser, streamed


class GrpcStreamUser(LoadUser):
    """``ModelStreamInfer``, a call for each request."""

    protocol = "gRPC stream"

    def connect(self) -> None:
        """Open a channel of its own."""
        self.channel = grpc.insecure_channel(self.options.grpc_url, [("grpc.use_local_subchannel_pool", 1)])
        self.method = self.channel.stream_stream(GRPC_METHOD)

    def ask(self, texts: list[str]) -> Answer:
        """Stream one answer; it is decoded when it is whole."""
        body = grpc_request(self.model, texts[0], self.options.tokens)
        start = time.perf_counter()
        refusal = ""
        try:
            call = self.method(iter([body]), timeout=self.timeout, metadata=tuple(self.credentials.items()))
            arrivals = [(time.perf_counter(), data) for data in call]
            answer = read_grpc(start, arrivals)
        except grpc.RpcError as error:
            refusal = f"{error.code().name}: {error.details()}"[:200]
        except LoadTestError as error:
            refusal = error.what[:200]
        if refusal:  # not within `except`: the cause would keep the call alive
            raise RequestError(refusal)
        size = sum(len(data) for _, data in arrivals)
        return Answer(answer.tokens, size, answer.first_s, answer.last_s)

    def on_stop(self) -> None:
        """Close the channel."""
        self.channel.close()


class SseUser(JsonUser):
    """Triton's ``generate_stream``."""

    protocol = "SSE"

    @property
    def base_url(self) -> str:
        """tritonserver's, or a gateway's: it lets the path through."""
        return str(self.options.http_url)

    def ask(self, texts: list[str]) -> Answer:
        """Stream one answer."""
        body = {"text_input": texts[0], "max_tokens": self.options.tokens, "ignore_eos": True, "stream": True}
        start = time.perf_counter()
        events = self.post_stream(f"/v2/models/{self.model}/generate_stream", body)
        return streamed(start, events, _has_output, _completion_tokens)


class WebSocketUser(LoadUser):
    """``/ws/generate``: one socket, one request after another."""

    protocol = "WebSocket"

    def connect(self) -> None:
        """Connect with the first request, so that a refusal counts as one."""
        self.socket: websocket.WebSocket | None = None

    def ask(self, texts: list[str]) -> Answer:
        """Send one message and read frames to the final one."""
        if self.socket is None:
            self.socket = self._open()
        message = {
            "model": self.model,
            "prompt": texts[0],
            "max_tokens": self.options.tokens,
            "ignore_eos": True,
        }
        start = time.perf_counter()
        first: float | None = None
        size = 0
        try:
            self.socket.send(json.dumps(message))
            while True:
                data = self.socket.recv()
                when = time.perf_counter()
                size += len(data)
                frame = json.loads(data)
                if "error" in frame:
                    raise RequestError(f"error frame: {frame['error'].get('code', '')}")
                if first is None and frame.get("token_ids"):
                    first = when - start
                if frame["is_final"]:
                    return Answer(int(frame["usage"]["completion_tokens"]), size, first)
        except (OSError, ValueError, websocket.WebSocketException):
            self.on_stop()
            raise

    def on_stop(self) -> None:
        """Close the socket."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def _open(self) -> Any:
        base = self.options.gateway_url
        secure = base.startswith(("https", "wss"))
        address = base.partition("//")[2] or base
        url = f"{'wss' if secure else 'ws'}://{address.rstrip('/')}/ws/generate"
        headers = [f"{name}: {value}" for name, value in self.credentials.items()]
        try:
            return websocket.create_connection(url, timeout=self.timeout, header=headers)
        except websocket.WebSocketBadStatusException as error:
            raise RequestError(f"HTTP {error.status_code} instead of a socket") from error


def _has_output(event: dict[str, Any]) -> bool:
    return "text_output" in event


def _completion_tokens(event: dict[str, Any]) -> int | None:
    count = event.get("completion_tokens")
    return int(count) if count else None
