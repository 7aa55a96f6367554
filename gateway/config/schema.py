"""What ``gateway.yaml`` may say, with every default."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import Field, model_validator

from gateway.config.auth import Auth
from gateway.config.limits import AnswerCache, Limits, Screen, WebSockets
from gateway.config.pools import Pool, Region, Server
from gateway.config.resilience import Resilience
from gateway.config.sections import FreePort, LogLevel, Name, PositiveInt, Seconds, Section
from gateway.config.tracing import Tracing


class Tls(Section):
    """Certificates of the door; files that change are read again."""

    certificate: str = Field(description="PEM file, the chain included")
    key: str = Field(description="PEM file")
    client_ca: str | None = Field(
        default=None, description="PEM file: callers need a certificate of these (mTLS)"
    )


class Listen(Section):
    """Where the door is."""

    host: str = "127.0.0.1"
    port: FreePort = Field(default=8080, description="HTTP/1.1, HTTP/2, WebSocket and gRPC; 0: a free one")
    tls: Tls | None = None
    allow_origins: tuple[str, ...] = Field(default=(), description="CORS: origins of pages that may call")
    trusted_hops: int = Field(default=0, ge=0, description="proxies in front, whose X-Forwarded-For counts")
    headers_timeout_s: Seconds = Field(
        default=10, description="for all headers of a request, and for a TLS handshake"
    )
    idle_timeout_s: Seconds = Field(default=300, description="a connection without requests is closed then")


class Metrics(Section):
    """Where Prometheus scrapes; never the public door."""

    host: str = "127.0.0.1"
    port: FreePort = Field(
        default=8090, description="`/metrics` (facade) and `/metrics/envoy`; 0: a free one"
    )


class Facade(Section):
    """The processes behind Envoy that speak REST, WebSocket, gRPC and OpenAI."""

    workers: PositiveInt = Field(default=1, description="processes; Envoy balances over them")
    page: bool = Field(default=True, description="the playground at `/`")
    docs: bool = Field(default=True, description="`/docs` and `/openapi.json`")


class Envoy(Section):
    """The proxy's own process."""

    binary: str | None = Field(default=None, description="None: the wheel's, else `envoy` on PATH")
    concurrency: PositiveInt = Field(default=1, description="worker threads")


class Logs(Section):
    """What is logged; docs/logs.md."""

    level: LogLevel = Field(
        default="info", description="debug, info, warning, error; `tritonforge gateway log-level` changes it"
    )
    envoy_level: LogLevel = Field(
        default="warning", description="Envoy's own; at debug it writes headers, tokens included"
    )
    format: Literal["auto", "json", "text"] = Field(
        default="auto", description="auto: text on a terminal, else JSON"
    )
    access: bool = Field(default=True, description="Envoy's line for each request; no queries, no texts")

    @property
    def style(self) -> Literal["json", "text"]:
        """What ``auto`` means where nobody looks."""
        return "text" if self.format == "text" else "json"


class GatewayConfig(Section):
    """All of ``gateway.yaml``."""

    listen: Listen = Listen()
    metrics: Metrics = Metrics()
    region: Name | None = Field(default=None, description="where this gateway is: its region comes first")
    pools: tuple[Pool, ...] = (Pool(regions=(Region(name="local", servers=(Server(),)),)),)
    auth: Auth = Auth()
    limits: Limits = Limits()
    websocket: WebSockets = WebSockets()
    cache: AnswerCache = AnswerCache()
    screen: Screen = Screen()
    resilience: Resilience = Resilience()
    facade: Facade = Facade()
    envoy: Envoy = Envoy()
    logs: Logs = Logs()
    tracing: Tracing = Tracing()

    @model_validator(mode="after")
    def _consistent(self) -> GatewayConfig:
        """Pools differ, one takes what no other names, and an open door stays at home."""
        names = [pool.name for pool in self.pools]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"pools: at least one, each with a name of its own; these are {names}")
        claimed = [model for pool in self.pools for model in pool.models]
        doubled = sorted({model for model in claimed if claimed.count(model) > 1})
        if doubled:
            raise ValueError(f"pools: {', '.join(doubled)} is served by two pools; name each model once")
        if self.auth.disabled and not is_loopback(self.listen.host):
            raise ValueError(
                f"auth.disabled on {self.listen.host}: an open door may listen on a loopback address only"
            )
        return self

    def pool_of(self, model: str) -> Pool | None:
        """The pool that serves a model: the one that names it, else the one with ``*``."""
        for wanted in (model, "*"):
            for pool in self.pools:
                if wanted in pool.models:
                    return pool
        return None


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
