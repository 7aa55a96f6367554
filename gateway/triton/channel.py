"""Calls to the servers, with deadlines, cancellation and errors in the gateway's own words.

One HTTP/2 channel leads to Envoy's inner socket. Envoy chooses the server, retries, breaks circuits.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc.service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from clients.errors import stream_status
from gateway.errors import ApiError
from gateway.identity import POOL_HEADER, REQUEST_ID_HEADER, SERVER_HEADER
from gateway.tracing import TRACEPARENT, Span, calling

_UNBOUNDED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_NO_PROXY = ("grpc.enable_http_proxy", 0)
_MICROSECONDS = 1_000_000


class TritonChannel:
    """KServe v2 gRPC calls by way of one target.

    Args:
        target: ``unix:/path`` of Envoy's inner socket, or ``host:port`` of a server.
    """

    def __init__(self, target: str) -> None:
        """Make the channel, which connects when it is first used; needs a running event loop."""
        self._channel = grpc.aio.insecure_channel(target, [*_UNBOUNDED, _NO_PROXY])
        self.stub = GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """Cancel what is in flight and close."""
        await self._channel.close()

    async def infer(
        self, request: ModelInferRequest, *, pool: str, deadline: float, request_id: str = ""
    ) -> ModelInferResponse:
        """One request, one response.

        Args:
            request: It gets Triton's ``timeout`` parameter, which models whose queue policy allows that
                honour, besides the gRPC deadline, which cancels.
            pool: Which servers.
            deadline: On the clock of :func:`time.monotonic`, seconds.
            request_id: For the traces and logs on the way; Triton's and its backends' too.

        Raises:
            ApiError: No answer came, or an error.
        """
        left = seconds_left(deadline)
        request.id = request_id
        request.parameters["timeout"].int64_param = int(left * _MICROSECONDS)
        with calling("ModelInfer", request.model_name) as span:
            call = self.stub.ModelInfer(request, timeout=left, metadata=_metadata(pool, request_id, span))
            try:
                response: ModelInferResponse = await call
                await _note_server(span, call)
                return response
            except grpc.aio.AioRpcError as error:
                raise api_error(request.model_name, error.code(), error.details() or "") from error

    async def stream(
        self, request: ModelInferRequest, *, pool: str, deadline: float, request_id: str = ""
    ) -> AsyncGenerator[ModelInferResponse, None]:
        """One request, many responses; leaving the iteration early cancels the request on the server.

        Raises:
            ApiError: As for :meth:`infer`; what came before is not taken back.
        """
        left = seconds_left(deadline)
        request.id = request_id
        request.parameters["timeout"].int64_param = int(left * _MICROSECONDS)
        with calling("ModelStreamInfer", request.model_name) as span:
            call = self.stub.ModelStreamInfer(timeout=left, metadata=_metadata(pool, request_id, span))
            try:
                # Where the call ends meanwhile, the reading says why.
                with contextlib.suppress(grpc.aio.InternalError, asyncio.InvalidStateError):
                    await call.write(request)
                    await call.done_writing()
                message: ModelStreamInferResponse
                failure: ApiError | None = None
                waiting, begun = bool(span), False
                # To the very end: a call that is cancelled just as its last response comes stays in Triton
                # 2.51 for ever, and its model can be unloaded no more.
                async for message in call:
                    if waiting:
                        waiting = False
                        span.event("first response")
                        await _note_server(span, call)
                    if message.error_message:
                        failure = stream_error(request.model_name, message.error_message, begun=begun)
                    else:
                        begun = True
                        yield message.infer_response
                if failure is not None:
                    raise failure
            except grpc.aio.AioRpcError as error:
                # Its deadline may pass while it is being sent, which grpc.aio calls an internal error.
                if time.monotonic() >= deadline:
                    raise api_error(request.model_name, grpc.StatusCode.DEADLINE_EXCEEDED, "") from error
                raise api_error(request.model_name, error.code(), error.details() or "") from error
            finally:
                call.cancel()


def seconds_left(deadline: float) -> float:
    """Seconds until a deadline.

    Raises:
        ApiError: It has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise ApiError("deadline_exceeded", "the time for this request is over", mend="allow more time")
    return left


def _metadata(pool: str, request_id: str, span: Span) -> list[tuple[str, str]]:
    metadata = [(POOL_HEADER, pool)]
    if request_id:
        metadata.append((REQUEST_ID_HEADER, request_id))
    if span.traceparent is not None:
        metadata.append((TRACEPARENT, span.traceparent))
    return metadata


async def _note_server(span: Span, call: Any) -> None:
    """Tell the span which server answered, where Envoy says so."""
    if span:
        server = dict(await call.initial_metadata()).get(SERVER_HEADER)
        if server is not None:
            span.set({"server.address": server})


def api_error(model: str, status: Any, details: str) -> ApiError:
    """What a gRPC status from Triton, or from Envoy on the way to it, means to the caller."""
    code = grpc.StatusCode
    what = f"{model}: {details}" if details else f"{model}: {status.name}"
    if status in (code.INVALID_ARGUMENT, code.OUT_OF_RANGE, code.FAILED_PRECONDITION):
        return ApiError("invalid_value", what, mend="change what the message names")
    if status == code.NOT_FOUND:
        return ApiError("model_not_found", what, field="model", mend="GET /v1/models lists what is served")
    if status in (code.UNAVAILABLE, code.RESOURCE_EXHAUSTED):
        overloaded = "overflow" in details or "again later" in details or "queue" in details
        return ApiError(
            "overloaded" if overloaded else "unavailable", what, mend="try again", retry_after_s=1
        )
    if status == code.DEADLINE_EXCEEDED:
        return ApiError("deadline_exceeded", what, mend="allow more time, or ask for less")
    if status == code.CANCELLED:
        return ApiError("cancelled", what)
    return ApiError("model_failed", what, mend="look into the server's log")


def stream_error(model: str, message: str, *, begun: bool) -> ApiError:
    """What an error within a stream means, of which pieces may have come."""
    return api_error(model, grpc.StatusCode[stream_status(message, begun=begun)], message)
