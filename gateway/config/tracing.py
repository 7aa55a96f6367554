"""Where spans go, and of how many requests."""

from __future__ import annotations

from pydantic import Field, field_validator

from gateway.config.resilience import Percent
from gateway.config.sections import Section
from tritonforge.otlp import TRACES_PATH, base_url


class CollectorHeader(Section):
    """A header that the collector wants with every export, such as a key."""

    name: str = Field(pattern=r"^[A-Za-z0-9-]+$")
    file: str = Field(description="holds the value; read when the gateway starts")


class Tracing(Section):
    """OpenTelemetry spans of Envoy and the facade; off without an endpoint."""

    endpoint: str | None = Field(
        default=None,
        description="base URL of an OTLP/HTTP collector, as http://127.0.0.1:4318; null: no spans",
    )
    sampling_percent: Percent = Field(default=1, description="of requests; decided once, at the door")
    trust_callers: bool = Field(
        default=False, description="a caller's `traceparent` decides instead; only behind proxies of your own"
    )
    service_name: str = Field(
        default="tritonforge",
        pattern=r"^[A-Za-z0-9._-]{1,63}$",
        description="`service.name` is this with `-door` or `-facade`",
    )
    headers: tuple[CollectorHeader, ...] = Field(default=(), description="that the collector wants")
    ca_file: str | None = Field(
        default=None, description="verify an https collector with these CAs instead of the system's"
    )

    @field_validator("endpoint")
    @classmethod
    def _is_base_url(cls, value: str | None) -> str | None:
        return None if value is None else base_url(value)

    @property
    def traces_url(self) -> str:
        """Where spans are posted to; the endpoint is set."""
        return f"{self.endpoint}{TRACES_PATH}"
