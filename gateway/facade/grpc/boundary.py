"""Where an RPC comes in and goes out: who calls, until when, how it ended."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import structlog
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc_status.rpc_status import to_status

from gateway.config import GatewayConfig
from gateway.errors import ApiError
from gateway.facade.grpc.errors import status_of
from gateway.identity import REQUEST_ID_HEADER
from gateway.logs import note_request
from gateway.metrics import IN_FLIGHT, observe
from gateway.tasks.call import Call
from gateway.tracing import TRACEPARENT, enter, serving

logger = structlog.get_logger(__name__)

Context = Any
"""``grpc.aio.ServicerContext``, which has no type information."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a message whose bytes are none, so that the answer can say so in our words."""

    reason: str


def reader_of(kind: type[Message]) -> Any:
    """A deserializer that never raises."""

    def read(data: bytes) -> Message | Unreadable:
        try:
            return kind.FromString(data)
        except DecodeError as error:
            return Unreadable(str(error))

    return read


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC at work.

    Attributes:
        call: Who asks, and until when.
        start: When it arrived, on the clock of :func:`time.perf_counter`.
    """

    call: Call
    start: float

    @property
    def latency_ms(self) -> float:
        """Milliseconds since it arrived."""
        return round((time.perf_counter() - self.start) * 1000, 3)


@contextlib.asynccontextmanager
async def rpc(
    method: str,
    request: Message | Unreadable,
    context: Context,
    config: GatewayConfig,
    *,
    streams: bool = False,
) -> AsyncIterator[Rpc]:
    """Serve an RPC within this: what goes wrong becomes its status, and limits its trailing metadata.

    Args:
        method: For the metrics.
        request: As :func:`reader_of` read it.
        context: Of the RPC.
        config: The longest times allowed.
        streams: The answer comes in pieces.
    """
    start = time.perf_counter()
    in_flight = IN_FLIGHT.labels("grpc")
    in_flight.inc()
    code = "CANCELLED"
    headers: dict[str, str] = {}
    try:
        call = _call(context, config, streams=streams)
        headers = call.headers
        _check(request)
        with serving(f"ModelService/{method}", {"rpc.system": "grpc", "rpc.method": method}):
            yield Rpc(call, start)
        context.set_trailing_metadata(tuple(headers.items()))
        code = "OK"
    except ApiError as error:
        code = error.code.grpc
        await _abort(context, error, headers)
    except Exception:
        logger.exception("fault", method=method)
        code = "INTERNAL"
        await _abort(
            context,
            ApiError("internal", "a fault of the gateway; it is in its log", mend="report it"),
            headers,
        )
    finally:
        in_flight.dec()
        observe("grpc", method, code, time.perf_counter() - start)


def _call(context: Context, config: GatewayConfig, *, streams: bool) -> Call:
    """Read the metadata; a caller's own deadline holds where it is nearer than the configured one."""
    metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
    enter(metadata.get(TRACEPARENT))
    note_request(metadata.get(REQUEST_ID_HEADER))
    call = Call.from_headers(metadata, config, streams=streams)
    left = context.time_remaining()
    return call if left is None else replace(call, deadline=min(call.deadline, time.monotonic() + left))


def _check(request: Message | Unreadable) -> None:
    """Refuse what is no message, and fields that this gateway does not know: they would have no effect."""
    if isinstance(request, Unreadable):
        raise ApiError(
            "invalid_value",
            f"the message cannot be read: {request.reason}",
            mend="send the messages of model_service.proto, with texts in UTF-8",
        )
    unknown = _unknown_field(request)
    if unknown is not None:
        raise ApiError(
            "unknown_field",
            f"field {unknown} is not known here",
            field=unknown,
            mend="leave it out, or ask a gateway that knows it",
        )


def _unknown_field(message: Message) -> str | None:
    """Path of the first field, by its number, that the messages do not have."""
    strangers = UnknownFieldSet(message)
    if len(strangers):
        return str(strangers[0].field_number)
    for descriptor, value in message.ListFields():
        if descriptor.type != descriptor.TYPE_MESSAGE:
            continue
        several = not isinstance(value, Message)
        for index, inner in enumerate(value if several else (value,)):
            found = _unknown_field(inner)
            if found is not None:
                return f"{descriptor.name}.{index}.{found}" if several else f"{descriptor.name}.{found}"
    return None


async def _abort(context: Context, error: ApiError, headers: dict[str, str]) -> None:
    status = to_status(status_of(error))
    told = {**headers, **error.headers}
    if error.retry_after_s is not None:
        told["retry-after"] = str(math.ceil(error.retry_after_s))
    await context.abort(status.code, status.details, (*told.items(), *status.trailing_metadata))
