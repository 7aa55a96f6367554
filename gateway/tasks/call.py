"""What every request brings along, whatever its protocol."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.config import GatewayConfig
from gateway.errors import ApiError
from gateway.identity import REQUEST_ID_HEADER, TIMEOUT_HEADER, Identity

_MILLISECONDS = re.compile("[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        identity: Who asks.
        deadline: When the answer is worth nothing any more, on the clock of :func:`time.monotonic`.
        request_id: Names it in logs and traces.
        headers: What the answer's headers should say besides (limits left, cache); filled on the way.
    """

    identity: Identity
    deadline: float
    request_id: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_headers(
        cls, headers: Mapping[str, str], config: GatewayConfig, *, streams: bool = False
    ) -> Call:
        """Read the headers that Envoy and the caller set; names are lower case.

        Args:
            headers: Of an HTTP request, or the metadata of a gRPC call.
            config: The longest times allowed.
            streams: The answer comes in pieces, for which more time is allowed.

        Raises:
            ApiError: Nobody is named, or the wanted time is no positive number of milliseconds.
        """
        resilience = config.resilience
        longest = resilience.stream_timeout_s if streams else resilience.request_timeout_s
        wanted = headers.get(TIMEOUT_HEADER)
        if wanted is not None:
            if not _MILLISECONDS.fullmatch(wanted) or int(wanted) == 0:
                raise ApiError(
                    "invalid_value",
                    f"{wanted[:40]!r} is no positive whole number of milliseconds",
                    field=TIMEOUT_HEADER,
                    mend="send milliseconds, or leave the header out",
                )
            longest = min(longest, int(wanted) / 1000)
        return cls(
            Identity.from_headers(headers),
            time.monotonic() + longest,
            headers.get(REQUEST_ID_HEADER, ""),
        )
