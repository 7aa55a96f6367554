"""Which servers there are, where, and for which models."""

from __future__ import annotations

from pydantic import Field, model_validator

from gateway.config.sections import Name, NonNegativeInt, Port, PositiveInt, Seconds, Section


class Server(Section):
    """One Triton server with a fixed address."""

    host: str = Field(default="127.0.0.1", description="address or host name")
    http_port: Port = 8000
    grpc_port: Port = 8001


class Lookup(Section):
    """Servers found by DNS: every address that the name has."""

    name: str = Field(description="host name")
    http_port: Port = 8000
    grpc_port: Port = 8001
    refresh_s: Seconds = 5


class HeadlessService(Section):
    """Pods behind a Kubernetes headless Service (``clusterIP: None``)."""

    service: str
    namespace: str = "default"
    cluster_domain: str = "cluster.local"
    http_port: Port = 8000
    grpc_port: Port = 8001
    refresh_s: Seconds = 5


class Region(Section):
    """The servers of one pool in one place; exactly one way to find them."""

    name: Name
    servers: tuple[Server, ...] = ()
    dns: Lookup | None = None
    kubernetes: HeadlessService | None = None
    latency_ms: float | None = Field(
        default=None, ge=0, description="round trip from this gateway; None: measured while it runs"
    )
    tls: bool = Field(default=False, description="speak TLS to the servers, verified with the system's CAs")
    ca_file: str | None = Field(default=None, description="verify them with these CAs instead")

    @model_validator(mode="after")
    def _one_way(self) -> Region:
        """A region without servers, or with two sources of them, is a mistake."""
        if sum((bool(self.servers), self.dns is not None, self.kubernetes is not None)) != 1:
            raise ValueError(f"region {self.name}: give one of servers, dns and kubernetes")
        return self


class Overflow(Section):
    """A region that is used only above a load, as a cloud beside the own machines."""

    region: Name = Field(description="its name; it is left out of the ordinary order of regions")
    above: PositiveInt = Field(description="requests in flight in the pool, above which it takes the excess")
    give_back_after_s: NonNegativeInt = Field(
        default=900, description="seconds below that load after which all is served at home again"
    )


class Pool(Section):
    """Servers that hold the same models."""

    name: Name = "main"
    models: tuple[str, ...] = Field(
        default=("*",), min_length=1, description="models it serves; `*` means all that no other pool names"
    )
    regions: tuple[Region, ...] = Field(min_length=1)
    overflow: Overflow | None = None

    @model_validator(mode="after")
    def _names_fit(self) -> Pool:
        """Region names are unique, and the overflow is one of them but not the only one."""
        names = [region.name for region in self.regions]
        if len(set(names)) != len(names):
            raise ValueError(f"pool {self.name}: two regions of one name in {names}")
        if self.overflow and (self.overflow.region not in names or len(names) < 2):
            raise ValueError(
                f"pool {self.name}: overflow names region {self.overflow.region}; give that one and another"
            )
        return self

    @property
    def home_regions(self) -> tuple[Region, ...]:
        """The regions that serve ordinarily."""
        spare = self.overflow.region if self.overflow else None
        return tuple(region for region in self.regions if region.name != spare)
