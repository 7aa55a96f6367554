from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gateway.config.pools import Region, Server
from gateway.control.regions import RegionOrder, latency_ms
from tritonforge.server import TritonServer
from tritonforge.server.ports import free_ports

NAMES = ("east", "north", "south", "west")
MS = st.floats(0.1, 500)


def settle(order: RegionOrder, latencies: dict[str, float | None], rounds: int = 12) -> tuple[str, ...]:
    for _ in range(rounds):
        order.observe(latencies)
    return order.order


def test_the_first_round_orders_at_once() -> None:
    order = RegionOrder(("east", "north", "south"))
    assert order.observe({"east": 80, "north": 5, "south": 30}) == ("north", "south", "east")


def test_the_own_region_stays_in_front() -> None:
    order = RegionOrder(NAMES, "west")
    assert order.order == ("west", "east", "north", "south")
    settled = settle(order, {"east": 30, "north": 5, "south": 10, "west": 400})
    assert settled == ("west", "north", "south", "east")


def test_a_clear_change_counts_after_three_rounds() -> None:
    order = RegionOrder(("east", "north"))
    order.observe({"east": 10, "north": 30})
    for _ in range(2):
        assert order.observe({"east": 100, "north": 30}) == ("east", "north")
    assert order.observe({"east": 100, "north": 30}) == ("north", "east")


def test_a_single_slow_round_counts_for_nothing() -> None:
    order = RegionOrder(("east", "north"))
    order.observe({"east": 10, "north": 30})
    for east in itertools.islice(itertools.cycle((500, 500, 10)), 30):
        assert order.observe({"east": east, "north": 30}) == ("east", "north")


def test_silence_changes_nothing() -> None:
    order = RegionOrder(("east", "north"))
    order.observe({"east": 10, "north": 30})
    assert settle(order, {"east": None, "north": 30}) == ("east", "north")


def test_a_region_first_heard_later_is_put_in_its_place() -> None:
    order = RegionOrder(("east", "north"))
    order.observe({"east": None, "north": 30})
    assert order.order == ("north", "east")
    assert settle(order, {"east": 3, "north": 30}) == ("east", "north")


@given(st.tuples(MS, MS, MS, MS), st.lists(st.tuples(*[st.floats(0.92, 1.08)] * 4), max_size=40))
def test_noise_never_changes_the_order(
    base: tuple[float, ...], noise: list[tuple[float, float, float, float]]
) -> None:
    order = RegionOrder(NAMES)
    first = order.observe(dict(zip(NAMES, base, strict=True)))
    for factors in noise:
        measured = {name: ms * factor for name, ms, factor in zip(NAMES, base, factors, strict=True)}
        assert order.observe(measured) == first


@given(st.lists(st.tuples(MS, MS, MS, MS), min_size=1, max_size=20), st.sampled_from((None, *NAMES)))
def test_whatever_came_before_the_order_settles_by_latency(
    rounds: list[tuple[float, ...]], own: str | None
) -> None:
    order = RegionOrder(NAMES, own)
    for measured in rounds:
        found = order.observe(dict(zip(NAMES, measured, strict=True)))
        assert sorted(found) == sorted(NAMES)
        assert own is None or found[0] == own
    last = dict(zip(NAMES, rounds[-1], strict=True))
    settled = settle(order, dict(last))
    rest = settled[1:] if own else settled
    # Nobody stands right behind one that is clearly farther.
    assert all(last[after] >= last[before] * 0.8 - 1 for before, after in itertools.pairwise(rest))
    assert settle(order, dict(last)) == settled


async def test_a_real_server_is_measured(triton: TritonServer) -> None:
    port = int(triton.http_address.rpartition(":")[2])
    measured = await latency_ms(Region(name="east", servers=(Server(http_port=port),)))
    assert measured is not None
    assert 0 < measured < 500


async def test_what_the_configuration_says_is_not_measured() -> None:
    assert await latency_ms(Region(name="east", servers=(Server(http_port=1),), latency_ms=42)) == 42


async def test_nobody_there_is_no_latency() -> None:
    (port,) = free_ports(1)
    assert await latency_ms(Region(name="east", servers=(Server(http_port=port),))) is None
