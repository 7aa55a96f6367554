"""Where a running gateway keeps its sockets and files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Files of one running gateway, in a folder that only its user can enter.

    Attributes:
        folder: Short, for a Unix socket's path has 107 bytes at most.
    """

    folder: Path
    PREFIX: ClassVar = "tritonforge-gateway-"

    def facade_http(self, worker: int) -> Path:
        """Socket of a facade process: REST, OpenAI, WebSocket, and what only Envoy asks (``/internal/…``)."""
        return self.folder / f"facade-{worker}.sock"

    def facade_grpc(self, worker: int) -> Path:
        """Socket of a facade process: gRPC ModelService, health, reflection."""
        return self.folder / f"facade-{worker}-grpc.sock"

    @property
    def egress(self) -> Path:
        """Socket of Envoy for the facade's calls to the servers, KServe v2 gRPC."""
        return self.folder / "egress.sock"

    @property
    def admin(self) -> Path:
        """Socket of Envoy's admin interface."""
        return self.folder / "admin.sock"

    @property
    def control(self) -> Path:
        """Socket of the supervisor, for `tritonforge gateway log-level`."""
        return self.folder / "control.sock"

    @property
    def bootstrap(self) -> Path:
        """Envoy's configuration."""
        return self.folder / "envoy.json"

    @property
    def clusters(self) -> Path:
        """Envoy's clusters, which it reads again when they change (CDS)."""
        return self.folder / "clusters.json"

    @property
    def config(self) -> Path:
        """The gateway's configuration as it was read, for the facade's processes."""
        return self.folder / "gateway.json"
