"""Who calls, as Envoy found it, and what that lets them do.

Envoy sets these headers itself on every request that it passes on, and removes any that came from
outside. The facade listens on Unix sockets in a private folder only, so nothing but Envoy can reach it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.errors import ApiError

SUBJECT_HEADER = "x-tritonforge-subject"
SCOPES_HEADER = "x-tritonforge-scopes"
EXPIRES_HEADER = "x-tritonforge-expires"
"""When a caller's token is over, seconds since 1970; an API key has none."""
CLOCK_SKEW_S = 30
"""A token is taken for so long after its end, since clocks differ."""
REQUEST_ID_HEADER = "x-request-id"
POOL_HEADER = "x-tritonforge-pool"
"""On the way to the servers: which pool; by the facade, or by Envoy for KServe v2 requests."""
SERVER_HEADER = "x-tritonforge-server"
"""On the way back from the servers: which of a pool answered; by Envoy."""
TIMEOUT_HEADER = "x-request-timeout-ms"
"""How long a caller will wait, milliseconds."""

API_SCOPES = ("embed", "classify", "generate", "kserve")
"""Scopes of the APIs; a model has ``model:NAME``, and ``model:*`` means all."""
ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller.

    Attributes:
        subject: Who: the token's ``sub``, or ``key:ID`` of an API key.
        scopes: What they may do.
        expires: When their token is over, seconds since 1970; None: it is not known to be ever.
    """

    subject: str
    scopes: frozenset[str]
    expires: float | None = None

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Identity:
        """Read what Envoy wrote; header names are lower case.

        Raises:
            ApiError: Nobody is named, so the request did not come through Envoy as it should.
        """
        subject = headers.get(SUBJECT_HEADER, "")
        if not subject:
            raise ApiError("unauthenticated", "nobody is named", mend="send a bearer token or an API key")
        expires = headers.get(EXPIRES_HEADER)
        scopes = frozenset(headers.get(SCOPES_HEADER, "").split())
        return cls(subject, scopes, float(expires) if expires else None)

    def may_use(self, model: str) -> bool:
        """Whether a model is open to them."""
        return "model:*" in self.scopes or f"model:{model}" in self.scopes

    def require(self, api: str, model: str) -> None:
        """Demand the scopes of an API and a model.

        Raises:
            ApiError: One of them is missing.
        """
        if api not in self.scopes:
            raise ApiError("forbidden", f"scope {api} is missing", mend=f"ask for a token with scope {api}")
        if not self.may_use(model):
            raise ApiError(
                "forbidden",
                f"scope model:{model} is missing",
                field="model",
                mend=f"ask for a token with scope model:{model}",
            )
