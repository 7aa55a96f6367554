"""What can go wrong between a client and Triton, as one small tree.

::

    ClientError                 base: message, status, hint
    ├── InvalidRequestError     the request can never succeed as it is: do not retry
    ├── ModelNotFoundError      no such model, or not loaded
    ├── UnavailableError        refused before or instead of work: safe to retry, and retried
    ├── RequestTimeoutError     no answer within the timeout: never retried
    ├── ServerFaultError        the server or the model failed
    └── SharedMemoryError       a shared memory region could not be made or registered

Statuses have gRPC's names on both protocols, so that code which looks at them need not know which
protocol is in use.
"""

from __future__ import annotations

import asyncio

from tritonclient.utils import InferenceServerException


class ClientError(Exception):
    """Base of all that the clients raise for a failed call.

    Args:
        message: What happened, in the server's own words where there are any.
        status: gRPC's name of the status, such as ``"UNAVAILABLE"``.
        hint: What to do about it, or ``None`` where nothing general can be said.

    Attributes:
        message: As given.
        status: As given.
        hint: As given.
    """

    def __init__(self, message: str, *, status: str = "UNKNOWN", hint: str | None = None) -> None:
        """Keep the parts apart for code, and join them for people."""
        self.message = message
        self.status = status
        self.hint = hint
        super().__init__(f"{status}: {message}" + (f"\n  hint: {hint}" if hint else ""))


class InvalidRequestError(ClientError):
    """The request is wrong (shape, batch size, encoding, too long) and would fail again."""


class ModelNotFoundError(ClientError):
    """The server has no such model or version."""


class UnavailableError(ClientError):
    """The server cannot be reached, is shutting down, or turned the request away from a full queue."""


class RequestTimeoutError(ClientError):
    """No answer came within the client's timeout. The server may still be working on it."""


class ServerFaultError(ClientError):
    """The server or the model failed on a request that looks right."""


class SharedMemoryError(ClientError):
    """A shared memory region could not be created, or the server could not map it."""


UNREACHABLE = (UnavailableError, RequestTimeoutError)
#: What means "not ready" rather than "cannot tell".
NOT_READY = (*UNREACHABLE, ModelNotFoundError)

_HTTP_STATUS = {
    "400": "INVALID_ARGUMENT",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "NOT_FOUND",
    "408": "DEADLINE_EXCEEDED",
    "413": "INVALID_ARGUMENT",
    "429": "RESOURCE_EXHAUSTED",
    "499": "CANCELLED",
    "500": "INTERNAL",
    "501": "UNIMPLEMENTED",
    "502": "UNAVAILABLE",
    "503": "UNAVAILABLE",
    "504": "DEADLINE_EXCEEDED",
}

_KINDS: dict[str, tuple[type[ClientError], str | None]] = {
    "INVALID_ARGUMENT": (InvalidRequestError, None),
    "NOT_FOUND": (
        ModelNotFoundError,
        "check the model's name and version, and that it is loaded",
    ),
    "UNAVAILABLE": (UnavailableError, "check that the server is up, and the host and port of this protocol"),
    "DEADLINE_EXCEEDED": (
        RequestTimeoutError,
        "raise the client's timeout, or lower its batch_size",
    ),
}

# Words of Triton's core, of its Python backend, of our generation backend.
_STREAM_STATUS = (
    ("the engine failed", "INTERNAL"),
    ("the request failed", "INTERNAL"),
    ("stub process", "INTERNAL"),
    ("again later", "UNAVAILABLE"),
    ("for a free place", "UNAVAILABLE"),
    ("is being unloaded", "UNAVAILABLE"),
    ("cancel", "CANCELLED"),
    ("timed out", "DEADLINE_EXCEEDED"),
    ("timeout", "DEADLINE_EXCEEDED"),
    ("is not found", "NOT_FOUND"),
    ("unknown model", "NOT_FOUND"),
)


def stream_status(message: str, *, begun: bool) -> str:
    """What kind of error a message within a stream tells of; Triton sends it without a status.

    Over gRPC the header ``triton_grpc_error`` would have it send one, but any caller of a server older than
    26.04 can end that server so: a stream that ends with an error is freed while it is still in use
    (triton-inference-server/server#8708).

    Args:
        message: Triton's text.
        begun: Whether pieces of the answer have come.

    Returns:
        gRPC's name of the status. A text that says nothing means ``INVALID_ARGUMENT`` before the first piece
        and ``UNKNOWN`` after it.
    """
    lowered = message.lower()
    found = (status for words, status in _STREAM_STATUS if words in lowered)
    return next(found, "UNKNOWN" if begun else "INVALID_ARGUMENT")


# The HTTP libraries under tritonclient let their own exceptions through; they are told apart by
# where they come from, because this package imports nothing but tritonclient and numpy.
_TRANSPORT_LIBRARIES = {"aiohttp", "geventhttpclient", "grpc"}


def translate(error: Exception, *, url: str, timeout: float) -> Exception:
    """Turn what tritonclient raises into one of the errors above.

    Args:
        error: What a call of tritonclient raised.
        url: The server, for the message.
        timeout: The client's timeout in seconds, for the message.

    Returns:
        A :class:`ClientError`, or ``error`` itself where it is no failure of the call (a bug, say).
    """
    if isinstance(error, ClientError):
        return error
    if isinstance(error, InferenceServerException):
        raw = str(error.status() or "UNKNOWN").removeprefix("StatusCode.")
        status = _HTTP_STATUS.get(raw, raw)
        kind, hint = _KINDS.get(status, (ServerFaultError, None))
        return kind(error.message() or "the server gave no message", status=status, hint=hint)
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        hint = _KINDS["DEADLINE_EXCEEDED"][1]
        return RequestTimeoutError(
            f"no answer from {url} in {timeout:g} s", status="DEADLINE_EXCEEDED", hint=hint
        )
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _TRANSPORT_LIBRARIES:
        hint = _KINDS["UNAVAILABLE"][1]
        return UnavailableError(f"no connection to {url}: {error}", status="UNAVAILABLE", hint=hint)
    return error
