"""Which trace a request belongs to, and the facade's spans in it.

The context is W3C's ``traceparent``, which Envoy sets: https://www.w3.org/TR/trace-context/#traceparent-header
Envoy decides who is sampled. Of a request that is not, nothing is made here but the reading of that header,
and OpenTelemetry is imported only where spans go somewhere.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gateway.config.tracing import Tracing
from gateway.errors import ApiError, GatewayConfigError
from tritonforge.errors import first_line

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as SdkSpan

TRACEPARENT = "traceparent"
MODEL = "gen_ai.request.model"
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
"""Names of https://opentelemetry.io/docs/specs/semconv/gen-ai/, as far as there are any."""

ERROR_TYPE = "error.type"

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_SAMPLED = 1
_FAULT = 500
_EXPORT_S = 5.0

Kind = Literal["SERVER", "CLIENT", "INTERNAL"]

_current: ContextVar[str | None] = ContextVar("traceparent", default=None)
_request: ContextVar[Span | None] = ContextVar("request_span", default=None)
_provider: TracerProvider | None = None


def enter(traceparent: str | None) -> None:
    """Note the header of the request that this task serves; tasks made from here on know it too."""
    _current.set(traceparent)


def current_trace_id() -> str | None:
    """The trace of the request being served, 32 hexadecimal digits; None: it has none, or is not sampled."""
    found = sampled(_current.get())
    return found and found[0]


def sampled(traceparent: str | None) -> tuple[str, str] | None:
    """Ids of trace and parent span; None: the header is absent, no valid one, or says not to sample."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None or match[1] == _NO_TRACE or match[2] == _NO_SPAN or not int(match[3], 16) & _SAMPLED:
        return None
    return match[1], match[2]


class Span:
    """A span that is being made, or none: then every method does nothing.

    Attributes:
        traceparent: What a call made within it has to carry; None where the request is not sampled.
    """

    __slots__ = ("_sdk", "traceparent")

    def __init__(self, traceparent: str | None, sdk: SdkSpan | None = None) -> None:
        """Wrap a span of OpenTelemetry's SDK."""
        self.traceparent = traceparent
        self._sdk = sdk

    def __bool__(self) -> bool:
        """Whether there is one."""
        return self._sdk is not None

    def set(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes."""
        if self._sdk is not None:
            self._sdk.set_attributes(dict(attributes))

    def add(self, attributes: Mapping[str, int]) -> None:
        """Add to attributes that count."""
        if self._sdk is not None:
            had: Mapping[str, Any] = getattr(self._sdk, "attributes", None) or {}
            self._sdk.set_attributes({key: had.get(key, 0) + value for key, value in attributes.items()})

    def event(self, name: str) -> None:
        """Note that something happened now."""
        if self._sdk is not None:
            self._sdk.add_event(name)

    def rename(self, name: str) -> None:
        """Give it another name."""
        if self._sdk is not None:
            self._sdk.update_name(name)

    def fail(self, kind: str) -> None:
        """Say that it failed.

        Args:
            kind: A code or the name of an exception; never its text, which may hold what a caller wrote.
        """
        if self._sdk is not None:
            from opentelemetry.trace import StatusCode

            self._sdk.set_status(StatusCode.ERROR)
            self._sdk.set_attribute(ERROR_TYPE, kind)

    def end(self) -> None:
        """It is over."""
        if self._sdk is not None:
            self._sdk.end()


_NOTHING = Span(None)


def begin(name: str, kind: Kind, attributes: Mapping[str, Any] | None = None) -> Span:
    """Begin a span below the current one, without becoming the current one; its :meth:`Span.end` must follow.

    Args:
        name: What is done; few names in all.
        kind: As OpenTelemetry has it.
        attributes: To begin with.
    """
    context = _current.get()
    parent = sampled(context)
    if parent is None:
        return _NOTHING
    if _provider is None:
        return Span(context)
    from opentelemetry import trace

    remote = trace.SpanContext(int(parent[0], 16), int(parent[1], 16), True, trace.TraceFlags(_SAMPLED))
    sdk = _provider.get_tracer("tritonforge").start_span(
        name,
        trace.set_span_in_context(trace.NonRecordingSpan(remote)),
        trace.SpanKind[kind],
        dict(attributes or {}),
        record_exception=False,
    )
    return Span(f"00-{parent[0]}-{sdk.get_span_context().span_id:016x}-01", sdk)


@contextmanager
def serving(name: str, attributes: Mapping[str, Any] | None = None) -> Iterator[Span]:
    """The span of a request, for as long as this task serves it; what is begun within is below it.

    Args:
        name: Route or method, never a path that a caller made up.
        attributes: To begin with.
    """
    span = begin(name, "SERVER", attributes)
    if not span:
        yield span
        return
    _current.set(span.traceparent)
    _request.set(span)
    try:
        yield span
    except ApiError as error:
        if error.code.http >= _FAULT:
            span.fail(error.code.name)
        else:
            span.set({ERROR_TYPE: error.code.name})
        raise
    except BaseException as error:
        span.fail(type(error).__name__)
        raise
    finally:
        span.end()


@contextmanager
def calling(method: str, model: str) -> Iterator[Span]:
    """The span of a call to a server; its :attr:`Span.traceparent` has to go with the call.

    Args:
        method: Of KServe v2.
        model: Whom it asks.
    """
    span = _NOTHING if _current.get() is None else begin(f"call {method}", "CLIENT")
    if not span:
        yield span
        return
    span.set({"rpc.system": "grpc", "rpc.method": method, MODEL: model})
    try:
        yield span
    except ApiError as error:
        span.fail(error.code.name)
        raise
    except BaseException as error:
        span.set({ERROR_TYPE: type(error).__name__})  # left early: no fault of the server's
        raise
    finally:
        span.end()


def note_model(name: str, *, input_tokens: int = 0, output_tokens: int = 0) -> None:
    """Tell the request's span which model answered; tokens of several answers add up."""
    span = _request.get()
    if span is not None:
        span.set({MODEL: name})
        used = {INPUT_TOKENS: input_tokens, OUTPUT_TOKENS: output_tokens}
        span.add({key: count for key, count in used.items() if count})


def header_values(config: Tracing) -> dict[str, str]:
    """What the collector's headers say, by name.

    Raises:
        GatewayConfigError: A file cannot be read, or does not hold one line.
    """
    values = {}
    for each in config.headers:
        try:
            value = Path(each.file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise GatewayConfigError(
                f"cannot be read: {first_line(error)}",
                where=each.file,
                mend="name a file under tracing.headers",
            ) from error
        if not value.isprintable() or not value.isascii() or not value:
            raise GatewayConfigError(
                "does not hold one line of ASCII", where=each.file, mend=f"put the value of {each.name} there"
            )
        values[each.name] = value
    return values


def check_tracing(config: Tracing) -> None:
    """Look whether spans could be sent.

    Raises:
        GatewayConfigError: A package is missing, or a header's file cannot be read.
    """
    if config.endpoint is None:
        return
    if importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is None:
        raise GatewayConfigError(
            "spans cannot be sent: OpenTelemetry is not installed",
            where="tracing.endpoint",
            mend="pip install 'tritonforge[trace]', or leave the endpoint out",
        )
    header_values(config)


def start(config: Tracing) -> None:
    """Send this process's spans from now on; nothing where there is no endpoint."""
    global _provider
    if config.endpoint is None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    exporter = OTLPSpanExporter(
        endpoint=config.traces_url,
        headers=header_values(config),
        certificate_file=config.ca_file,
        timeout=_EXPORT_S,
    )
    # Envoy has sampled already.
    _provider = TracerProvider(
        sampler=ALWAYS_ON,
        resource=Resource.create({"service.name": f"{config.service_name}-facade"}),
        shutdown_on_exit=False,
    )
    _provider.add_span_processor(BatchSpanProcessor(exporter))


def stop() -> None:
    """Send what is left."""
    global _provider
    if _provider is not None:
        _provider.shutdown()
        _provider = None
