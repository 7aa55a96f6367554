"""Ranking and least squares against brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from build_engines.prune.importance import Importance, allocate
from build_engines.prune.sites import Site, Source
from build_engines.prune.solve import RIDGE, refit, removal_order, ridge


def problem(units: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(units * width, units * width, generator=generator)
    inputs = torch.randn(500, units * width, generator=generator) @ mixed
    return inputs.t() @ inputs, torch.randn(7, units * width, generator=generator)


def error(moments: torch.Tensor, weight: torch.Tensor, columns: torch.Tensor) -> float:
    """Squared error of the best weights on some columns, with the same ridge."""
    full = ridge(moments)
    difference = weight.double().clone()
    difference[:, columns] -= refit(moments, weight, columns).double()
    return float((difference @ full * difference).sum())


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_each_unit_taken_is_the_cheapest_left(width: int, seed: int) -> None:
    moments, weight = problem(6, width, seed)
    order = removal_order(moments, weight, width, block=1).tolist()
    assert sorted(order) == list(range(6))
    for step in range(5):
        left = order[step:]
        costs = {unit: error(moments, weight, columns(sorted(set(left) - {unit}), width)) for unit in left}
        assert min(costs, key=costs.__getitem__) == order[step]


def test_blocks_end_with_every_unit_once() -> None:
    moments, weight = problem(10, 1, 0)
    assert sorted(removal_order(moments, weight, 1, block=4).tolist()) == list(range(10))


def columns(units: list[int], width: int) -> torch.Tensor:
    return torch.tensor([unit * width + i for unit in units for i in range(width)])


def test_refit_is_least_squares() -> None:
    moments, weight = problem(8, 1, 1)
    keep = torch.tensor([0, 2, 5])
    fitted = refit(moments, weight, keep)
    full = ridge(moments, RIDGE)
    gradient = (full[keep][:, keep] @ fitted.double().t()) - full[keep] @ weight.double().t()
    assert gradient.abs().max() < 1e-4 * full.abs().max()


def site(name: str, units: int) -> Site:
    source, output = torch.nn.Linear(5, units), torch.nn.Linear(units, 5)
    return Site(name, "channels", output, None, (Source(source, 1, 1),), output, 1, 1, source)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8])
def test_the_allocation_is_the_cheapest(seed: int, sparsity: float) -> None:
    rng = np.random.default_rng(seed)
    sites = [site(name, 4) for name in "abc"]
    known = {
        s.name: Importance(
            torch.arange(4), torch.eye(4), np.arange(4), np.append(0.0, np.cumsum(rng.random(3)))
        )
        for s in sites
    }
    need = sparsity * 12 - 1e-6
    choices = set(combinations(np.tile(np.arange(4), 3).tolist(), 3))
    costs = {c: sum(known[s.name].costs[n] for s, n in zip(sites, c, strict=True)) for c in choices}
    best = min(cost for c, cost in costs.items() if sum(c) >= need) if sparsity < 0.75 else None
    found = allocate(sites, known, sparsity)
    if best is None:
        assert found is None
        return
    assert found is not None
    assert sum(found.values()) >= need
    assert sum(known[name].costs[count] for name, count in found.items()) == pytest.approx(best)
