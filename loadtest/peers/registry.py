"""Every peer there is."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.peers import bentoml_service, fastapi_server, infinity, litserve_server, mlserver_runtime
from loadtest.peers.system import System
from tritonforge.errors import UsageError

PEERS: tuple[System, ...] = (
    *infinity.SYSTEMS,
    *fastapi_server.SYSTEMS,
    *litserve_server.SYSTEMS,
    *mlserver_runtime.SYSTEMS,
    *bentoml_service.SYSTEMS,
)


def find_peers(wanted: Sequence[str] | None) -> tuple[System, ...]:
    """Peers by name, or by how their names begin: ``fastapi`` is all of FastAPI's.

    Args:
        wanted: None: all; ``["none"]``: none.

    Raises:
        UsageError: A name fits none.
    """
    if wanted is None:
        return PEERS
    if list(wanted) == ["none"]:
        return ()
    for name in wanted:
        if not any(_fits(peer, name) for peer in PEERS):
            known = ", ".join(peer.name for peer in PEERS)
            raise UsageError(f"no peer is called {name!r}", mend=f"one or more of {known}, or none")
    return tuple(peer for peer in PEERS if any(_fits(peer, name) for name in wanted))


def _fits(peer: System, name: str) -> bool:
    return peer.name == name or peer.name.startswith(f"{name}-")
