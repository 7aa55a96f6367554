"""A steady load: replicas, nodes, gateways and their price, from ten requests a second to a million."""

from __future__ import annotations

import math
from dataclasses import dataclass

from loadtest.scaling.curve import Curve
from loadtest.scaling.profile import Profile
from tritonforge.errors import UsageError

RATES = (10.0, 100.0, 1e3, 1e4, 1e5, 1e6)

# gateway.yaml's resilience.health.interval_s; a server is asked over HTTP and over gRPC.
_CHECK_EVERY_S = 2.0
_PROTOCOLS = 2


@dataclass(frozen=True)
class Choices:
    """What is wanted, and what things cost.

    Attributes:
        p99_s: Highest 99th percentile.
        utilisation: Highest share of a server's capacity.
        zones: The rest still serves all when one of them is lost; 1: nothing is kept for that.
        node_price: Of a node, an hour; the currency is yours.
        pods_per_node: Servers that fit on it.
        gateway_cores: Of one gateway.
        gateway_cpu_s: CPU of the gateway for a request; None: gateways are not counted.
        cell: Servers that one group of gateways balances over, at most.
    """

    p99_s: float = 0.1
    utilisation: float = 0.7
    zones: int = 3
    node_price: float = 0.20
    pods_per_node: int = 1
    gateway_cores: float = 2.0
    gateway_cpu_s: float | None = None
    cell: int = 100

    def __post_init__(self) -> None:
        """Refuse what means nothing.

        Raises:
            UsageError: With what is allowed.
        """
        if not 0 < self.utilisation <= 0.95:
            raise UsageError(
                f"must be above 0 and at most 0.95, not {self.utilisation:g}",
                where="--utilisation",
                mend="a queue that is used wholly grows without bound; 0.7 leaves room for bursts",
            )
        least = {
            "--p99-ms": self.p99_s,
            "--zones": self.zones,
            "--pods-per-node": self.pods_per_node,
            "--cell": self.cell,
            "--gateway-cores": self.gateway_cores,
        }
        for option, value in least.items():
            if not 0 < value < math.inf:
                raise UsageError(f"must be a positive number, not {value:g}", where=option)


@dataclass(frozen=True)
class Needs:
    """What a rate needs.

    Attributes:
        rate: Requests a second.
        servers: Replicas, those for a lost zone included; 0: the objective cannot be kept.
        each: Requests a second of one while all zones are there.
        p50_s: Median latency then.
        p99_s: 99th percentile then.
        p99_lost_s: The same while a zone is lost.
        batch: Mean batch.
        nodes: That carry the servers.
        gateways: Replicas of the gateway, those for a lost zone included; None: not counted.
        cells: Groups of servers with gateways of their own.
        checks: Health checks that a server answers a second, from gateways of its cell; None: not counted.
        checks_uncut: What that would be were all in one cell.
        cost_hour: Nodes, and the gateways' cores at the same price; an hour.
        cost_million: For a million requests.
    """

    rate: float
    servers: int
    each: float = 0.0
    p50_s: float = math.inf
    p99_s: float = math.inf
    p99_lost_s: float = math.inf
    batch: float = 0.0
    nodes: int = 0
    gateways: int | None = None
    cells: int = 0
    checks: float | None = None
    checks_uncut: float | None = None
    cost_hour: float = math.inf
    cost_million: float = math.inf


def plan(curve: Curve, profile: Profile, rate: float, choices: Choices) -> Needs:
    """What one rate needs, if it is steady.

    Args:
        curve: One server.
        profile: As it was measured.
        rate: Requests a second, Poisson.
        choices: What is wanted.

    Raises:
        UsageError: The rate is not positive.
    """
    if not 0 < rate < math.inf:
        raise UsageError(f"must be a positive number, not {rate:g}", where="--rates")
    best = curve.highest_rate(choices.p99_s, choices.utilisation)
    if best == 0:
        return Needs(rate, 0)
    servers = over_zones(math.ceil(rate / best - 1e-9), choices.zones)
    left = servers - servers // choices.zones if choices.zones > 1 else servers
    each, lost = rate / servers, rate / left
    nodes = math.ceil(servers / choices.pods_per_node)
    cells = math.ceil(servers / choices.cell)
    gateways = checks = uncut = None
    cost = nodes * choices.node_price
    if choices.gateway_cpu_s:
        of_one = choices.gateway_cores * choices.utilisation / choices.gateway_cpu_s
        gateways = max(over_zones(math.ceil(rate / of_one), choices.zones), cells)
        core_price = choices.node_price / choices.pods_per_node / max(1, profile.setting.machine.cores)
        cost += gateways * choices.gateway_cores * core_price
        checks = math.ceil(gateways / cells) * _PROTOCOLS / _CHECK_EVERY_S
        uncut = gateways * _PROTOCOLS / _CHECK_EVERY_S
    place = int(abs(curve.rates - each).argmin())
    return Needs(
        rate=rate,
        servers=servers,
        each=each,
        p50_s=curve.quantile(each, 0.5),
        p99_s=curve.quantile(each, 0.99),
        p99_lost_s=curve.quantile(lost, 0.99),
        batch=float(curve.batch[place]),
        nodes=nodes,
        gateways=gateways,
        cells=cells,
        checks=checks,
        checks_uncut=uncut,
        cost_hour=cost,
        cost_million=cost / (rate * 3600) * 1e6,
    )


def over_zones(needed: int, zones: int) -> int:
    """So many, evenly over the zones, that those needed are left when one zone is lost."""
    return needed if zones == 1 else math.ceil(needed / (zones - 1)) * zones
