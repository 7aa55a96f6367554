"""Users of JSON over HTTP, each with one connection that is kept: geventhttpclient, as locust's own have."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from geventhttpclient import HTTPClient

from loadtest.addresses import host_and_port
from loadtest.users.base import Answer, LoadUser, RequestError


class JsonUser(LoadUser):
    """One connection to :attr:`base_url`."""

    abstract = True

    @property
    def base_url(self) -> str:
        """Where the API is."""
        return str(self.options.gateway_url)

    def connect(self) -> None:
        """Connect with the first request, and again when the server has closed."""
        host, port, secure = host_and_port(self.base_url)
        self.prefix = urlsplit(self.base_url if "//" in self.base_url else f"//{self.base_url}").path.rstrip(
            "/"
        )
        self.headers = {"content-type": "application/json", **self.credentials}
        self.client = HTTPClient(
            host,
            port,
            ssl=secure,
            concurrency=1,
            connection_timeout=self.timeout,
            network_timeout=self.timeout,
        )

    def on_stop(self) -> None:
        """Close the connection."""
        self.client.close()

    def post(self, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Send a body; return the answer's, and its size.

        Raises:
            RequestError: The status is no success.
        """
        response = self._send(path, body)
        data = response.read()
        return json.loads(data), len(data)

    def post_stream(self, path: str, body: dict[str, Any]) -> Iterator[tuple[float, bytes]]:
        """Send a body; give each server-sent event's data, and when it came, on the clock ``perf_counter``.

        Raises:
            RequestError: The status is no success.
        """
        response = self._send(path, body)
        while event := response.readline(b"\n\n"):
            if event.startswith(b"data: "):
                yield time.perf_counter(), bytes(event[6:-2])
        response.read()  # to the last byte, so that the connection can be used again

    def _send(self, path: str, body: dict[str, Any]) -> Any:
        response = self.client.post(
            f"{self.prefix}{path}", body=json.dumps(body).encode(), headers=self.headers
        )
        if response.status_code != 200:
            raise RequestError(f"HTTP {response.status_code} {_code(response.read())}".strip())
        return response


def streamed(start: float, events: Iterator[tuple[float, bytes]], is_text: Any, tokens: Any) -> Answer:
    """Read a stream to its end.

    Args:
        start: When the request was sent, on the clock ``perf_counter``.
        events: Of :meth:`JsonUser.post_stream`.
        is_text: Whether an event (read as JSON) holds text.
        tokens: How many tokens an event says that the answer has; None where it does not say.

    Raises:
        RequestError: The stream has an error, or ended early.
    """
    first: float | None = None
    size, count = 0, None
    for when, data in events:
        size += len(data)
        if data == b"[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise RequestError(f"error in the stream: {_code(data)}")
        if first is None and is_text(event):
            first = when - start
        found = tokens(event)
        count = count if found is None else found
    if first is None or count is None:
        raise RequestError("the stream ended early")
    return Answer(count, size, first)


def _code(data: bytes) -> str:
    """What kind of error a body tells: a problem's code, OpenAI's, or Triton's words."""
    try:
        body = json.loads(data)
        error = body.get("error", body)
        return (
            str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else str(error)[:120]
        )
    except (ValueError, AttributeError):
        return ""
