"""Asks a served model, each time in a trace of the caller's making: straight at Triton, or at a gateway."""

from __future__ import annotations

import json
import multiprocessing
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from observability.otlp import Span
from tritonforge.errors import ServerError

Kind = Literal["embedding", "classification", "generation"]
FIRST_TOKEN = "first token"
_SERVICE = "client"
_LOAD_S, _END_S = 60.0, 10.0
_PATHS = {"embedding": "/embed", "classification": "/classify"}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        model: Its name.
        kind: What it does.
        text: What it gets.
        max_tokens: Of a generated answer at most.
    """

    model: str
    kind: Kind
    text: str
    max_tokens: int | None = None


class Way(Protocol):
    """A way to a model; threads may share it."""

    def ask(self, traceparent: str | None) -> int | None:
        """Ask once and read the whole answer.

        Args:
            traceparent: The context to send; None: none.

        Returns:
            When the first token came, nanoseconds since 1970; None for a model that generates none.

        Raises:
            ServerError: The answer is an error, or none came.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class ToTriton:
    """KServe v2 gRPC.

    Args:
        address: ``host:port``.
        question: What to ask.
        timeout_s: For each answer.
    """

    def __init__(self, address: str, question: Question, timeout_s: float) -> None:
        """Connect when first asked."""
        import grpc
        from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

        from clients.calls import grpc_request

        self._channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
        self._stub = GRPCInferenceServiceStub(self._channel)
        self._timeout_s = timeout_s
        self._errors = grpc.RpcError
        self._address = address
        self._streams = question.kind == "generation"
        if self._streams:
            fields: dict[str, Any] = {"text_input": question.text, "stream": True}
            if question.max_tokens is not None:
                fields["max_tokens"] = question.max_tokens
            self._request = grpc_request(question.model, "", fields)
        else:
            self._request = _text_request(question)

    def ask(self, traceparent: str | None) -> int | None:
        """Ask once; see :meth:`Way.ask`."""
        metadata = (("traceparent", traceparent),) if traceparent else ()
        try:
            if not self._streams:
                self._stub.ModelInfer(self._request, metadata=metadata, timeout=self._timeout_s)
                return None
            first = None
            for message in self._stub.ModelStreamInfer(
                iter((self._request,)), metadata=metadata, timeout=self._timeout_s
            ):
                if message.error_message:
                    raise self._failed(message.error_message)
                first = first or time.time_ns()
            return first
        except self._errors as error:
            details = getattr(error, "details", lambda: "")()
            raise self._failed(details or type(error).__name__) from error

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _failed(self, what: str) -> ServerError:
        return ServerError(what, where=self._address, mend="see the server's log")


class ToGateway:
    """REST, and OpenAI's API for generation.

    Args:
        url: Base URL of the door.
        question: What to ask.
        timeout_s: For each answer.
    """

    def __init__(self, url: str, question: Question, timeout_s: float) -> None:
        """Connect when first asked."""
        import httpx

        # As many connections as threads ask.
        self._client = httpx.Client(
            base_url=url, timeout=timeout_s, trust_env=False, limits=httpx.Limits(max_connections=None)
        )
        self._errors = httpx.HTTPError
        self._url = url
        self._streams = question.kind == "generation"
        if self._streams:
            body = {"model": question.model, "prompt": question.text, "stream": True}
            if question.max_tokens is not None:
                body["max_tokens"] = question.max_tokens
            self._path = "/v1/completions"
        else:
            body = {"model": question.model, "text": question.text}
            self._path = _PATHS[question.kind]
        self._body = json.dumps(body)

    def ask(self, traceparent: str | None) -> int | None:
        """Ask once; see :meth:`Way.ask`."""
        headers = {"content-type": "application/json"}
        if traceparent:
            headers["traceparent"] = traceparent
        first = None
        try:
            with self._client.stream("POST", self._path, content=self._body, headers=headers) as answer:
                if not answer.is_success:
                    detail = json.loads(answer.read()).get("detail", "")
                    raise ServerError(
                        f"status {answer.status_code}: {detail}",
                        where=self._url,
                        mend="see the gateway's log",
                    )
                for _ in answer.iter_raw():
                    first = first or time.time_ns()
        except (self._errors, ValueError) as error:
            raise ServerError(f"{error}", where=self._url, mend="see the gateway's log") from error
        return first if self._streams else None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def ask_traced(way: Way) -> Span:
    """Ask in a new trace that is sampled; the client's span, its root, is returned.

    Raises:
        ServerError: The answer is an error, or none came.
    """
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    start = time.time_ns()
    first = way.ask(f"00-{trace_id}-{span_id}-01")
    end = time.time_ns()
    events = () if first is None else ((FIRST_TOKEN, first),)
    return Span(trace_id, span_id, "", _SERVICE, "request", start, end, {}, events)


@contextmanager
def others(make: Callable[[], Way], count: int) -> Iterator[Callable[[], int]]:
    """Keep so many untraced requests in flight meanwhile, from a process of their own.

    In this one they would make the traced request wait for the interpreter.

    Args:
        make: Gives a way to ask; it is called in that process.
        count: In flight at once; 0: none.

    Yields:
        What counts those that were answered.

    Raises:
        ServerError: None was answered for a long time.
    """
    if count == 0:
        yield lambda: 0
        return
    fresh = multiprocessing.get_context("spawn")
    stop, answered = fresh.Event(), fresh.Value("q", 0)
    process = fresh.Process(target=_keep_asking, args=(make, count, stop, answered), daemon=True)
    process.start()
    try:
        deadline = time.monotonic() + _LOAD_S
        while answered.value < count:
            if time.monotonic() > deadline or not process.is_alive():
                raise ServerError(
                    "the load beside got no answers", mend="see the server's log, or lower --load"
                )
            time.sleep(0.02)
        yield lambda: int(answered.value)
    finally:
        stop.set()
        process.join(_END_S)
        process.kill()


def _keep_asking(make: Callable[[], Way], count: int, stop: Any, answered: Any) -> None:
    way = make()

    def work() -> None:
        while not stop.is_set():
            try:
                way.ask(None)
            except ServerError:  # a full queue is what a load may lead to
                stop.wait(0.01)
            else:
                with answered.get_lock():
                    answered.value += 1

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _text_request(question: Question) -> Any:
    from tritonclient.grpc.service_pb2 import ModelInferRequest

    text = question.text.encode()
    request = ModelInferRequest(model_name=question.model)
    request.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(struct.pack("<I", len(text)) + text)
    return request
