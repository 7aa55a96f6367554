"""What can be set on a server."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

ENGINE_THREADS_VARIABLE = "TRITONFORGE_ENGINE_THREADS"


class ServerOptions(BaseModel):
    """Options of one tritonserver process.

    Attributes:
        host: Address that HTTP, gRPC and metrics listen on.
        http_port: Port of the KServe v2 HTTP endpoint; 0 takes a free one.
        grpc_port: Port of the KServe v2 gRPC endpoint; 0 takes a free one.
        metrics_port: Port of the Prometheus endpoint; 0 takes a free one.
        models: Models to load; empty: every model of the repository.
        log_verbose: Triton's verbose level; 0 is off.
        log_info: Whether Triton writes its INFO lines.
        log_warning: Whether Triton writes its WARNING lines.
        log_error: Whether Triton writes its ERROR lines.
        exit_timeout_s: Seconds that a stop waits for requests in flight.
        cache_size_bytes: Size of the local response cache; 0 leaves the cache out; None: 64 MiB if a
            loaded model's configuration enables it, which is in vain on a server without a cache.
        cache_redis: ``HOST:PORT`` of a Redis that holds the response cache instead, for servers that share
            it; a password comes from the variable TRITONCACHE_REDIS_PASSWORD.
        engine_threads: Threads of one engine instance, over what its config.pbtxt says.
        http_threads: Threads of the HTTP front end; None: as many as usable CPUs, 2 to 8.
        latency_summaries: Whether Triton keeps percentiles of the last minute for each stage of each model.
        otlp_endpoint: Base URL of an OTLP/HTTP collector that spans are sent to; None: no traces.
        trace_rate: Of requests without a ``traceparent`` header one in so many is traced; 0: none of them.
            Those with one always are.
        memory_limit_mib: What server and stubs may hold together, see :mod:`tritonforge.server.memory`; None:
            what models that were built with ``target: edge`` ask for; 0: no limit.
        extra_args: Further arguments for the tritonserver binary, passed last.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    http_port: int = Field(default=8000, ge=0, le=65535)
    grpc_port: int = Field(default=8001, ge=0, le=65535)
    metrics_port: int = Field(default=8002, ge=0, le=65535)
    models: tuple[str, ...] = ()
    log_verbose: int = Field(default=0, ge=0)
    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    exit_timeout_s: int = Field(default=30, ge=1)
    cache_size_bytes: int | None = Field(default=None, ge=0)
    cache_redis: str | None = None
    engine_threads: int | None = Field(default=None, ge=1)
    http_threads: int | None = Field(default=None, ge=1)
    latency_summaries: bool = True
    otlp_endpoint: str | None = None
    trace_rate: int = Field(default=0, ge=0)
    memory_limit_mib: int | None = Field(default=None, ge=0)
    extra_args: tuple[str, ...] = ()
