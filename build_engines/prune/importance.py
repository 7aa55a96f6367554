"""What it costs to take units out of each site, measured on text; and where to take how many.

Per site, :func:`~build_engines.prune.solve.removal_order` ranks the units. How much a site bears is then
measured, not estimated: with so many units gone and the rest refitted, how far are the model's outputs from
the dense model's? (A gradient cannot tell: the distance to oneself has none.) Costs of different sites are
taken to add up, which makes the choice a knapsack, as in ZipLM (Kurtic et al. 2023, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from build_engines.prune.running import Batch, Seen, Subject, distance, watch
from build_engines.prune.sites import Site
from build_engines.prune.solve import refit, removal_order

_SHARES = (1 / 12, 1 / 6, 0.25, 0.375, 0.5, 0.65, 0.8, 1.0)  # of the units that may go, measured
_GRID = 4000  # steps of the parameter budget in the knapsack
_RANKED_TOGETHER = 8  # channels taken out between two rankings


@dataclass(frozen=True)
class Importance:
    """What is known of one site.

    Attributes:
        order: int64 [units], the first goes first.
        moments: float32 [features, features], of what the output projection reads in the dense model.
        removed: int64 [levels], units that may be taken out: 0, and so on in blocks.
        costs: float64 [levels], mean distance of the outputs with so many gone.
    """

    order: Tensor
    moments: Tensor
    removed: NDArray[np.int64]
    costs: NDArray[np.float64]

    def keep(self, removed: int) -> Tensor:
        """Units that stay, ascending, int64."""
        return self.order[removed:].sort().values


def block_of(site: Site, multiple: int) -> int:
    """Units that go together: a head alone; channels by ``multiple``, or by less where there are few."""
    if site.kind == "heads":
        return 1
    while multiple > 1 and (site.units % multiple or site.units < 16 * multiple):
        multiple //= 2
    return multiple


@torch.no_grad()
def moments(subject: Subject, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Second moments of what every output projection reads, summed over tokens, by site."""
    sums = {
        site.name: torch.zeros(site.output.in_features, site.output.in_features) for site in subject.sites
    }

    def add(site: Site, seen: Seen) -> None:
        sums[site.name].addmm_(seen.inputs.t(), seen.inputs)

    with watch(subject.sites, add):
        subject.outputs(batches)
    return sums


@torch.no_grad()
def measure(
    subject: Subject,
    batches: Sequence[Batch],
    judged: Sequence[Batch],
    kinds: set[str],
    multiple: int,
    progress: Callable[[str], None],
) -> dict[str, Importance]:
    """Rank the units of all sites and measure what each site bears.

    Args:
        subject: The dense model; as it was when this returns.
        batches: Text for the moments.
        judged: A few texts more, to measure costs on.
        kinds: ``heads``, ``channels`` or both: what may be taken out.
        multiple: Channels that go together.
        progress: Called with a line for each site.

    Returns:
        By site; those that may not be touched have the level 0 alone.
    """
    sums = moments(subject, batches)
    wanted = subject.outputs(judged)
    found = {}
    for number, site in enumerate(subject.sites):
        progress(f"importance of {site.name} ({number + 1} of {len(subject.sites)})")
        found[site.name] = _measure_site(
            subject, site, sums[site.name], judged, wanted, multiple if site.kind in kinds else 0
        )
    return found


def _measure_site(
    subject: Subject, site: Site, sums: Tensor, judged: Sequence[Batch], wanted: Tensor, multiple: int
) -> Importance:
    """Order, levels and costs of one site; ``multiple`` 0 leaves it alone."""
    if not multiple:
        return Importance(torch.arange(site.units), sums, np.zeros(1, np.int64), np.zeros(1))
    block = block_of(site, multiple)
    weight = site.output.weight
    order = removal_order(sums, weight, site.width, 1 if site.kind == "heads" else _RANKED_TOGETHER)
    removed = np.arange(0, site.units, block)  # one block stays
    tried = np.unique(np.round(np.array(_SHARES) * (len(removed) - 1)).astype(np.int64))
    tried = tried[tried > 0]
    original = weight.detach().clone()
    measured = []
    try:
        for level in tried:
            columns = site.columns(order[removed[level] :].sort().values)
            fitted = refit(sums, original, columns)
            weight.zero_()
            weight[:, columns] = fitted
            measured.append(float(distance(subject.spec, subject.outputs(judged), wanted).double().mean()))
    finally:
        weight.copy_(original)
    # More gone never costs less; a rise in between would only be chance.
    costs = np.maximum.accumulate([0.0, *measured])
    return Importance(order, sums, removed, np.interp(np.arange(len(removed)), [0, *tried], costs))


def allocate(
    sites: Sequence[Site], importance: dict[str, Importance], sparsity: float
) -> dict[str, int] | None:
    """Units to take out of each site, at the least cost, so that the share of parameters is reached.

    Args:
        sites: Of the dense model.
        importance: By site.
        sparsity: Share of the parameters of all sites' units.

    Returns:
        By site; None if not even everything that may go is enough.
    """
    parameters = {site.name: site.unit_parameters for site in sites}
    total = sum(site.units * parameters[site.name] for site in sites)
    goal = int(np.ceil(sparsity * _GRID))
    # What a site gives is rounded down to the grid, so a goal may be met although the grid says no.
    for lower in range(min(goal, len(sites)), -1, -1):
        removed = _cheapest(sites, importance, total / _GRID, goal - lower)
        if removed is None:
            continue
        if sum(count * parameters[name] for name, count in removed.items()) >= sparsity * total * (1 - 1e-9):
            return removed
    return None


def _cheapest(
    sites: Sequence[Site], importance: dict[str, Importance], step: float, goal: int
) -> dict[str, int] | None:
    """Dynamic programming over sites on a grid of the parameters removed; ``goal`` in steps of it."""
    budget = np.arange(goal + 1)
    best = np.where(budget == 0, 0.0, np.inf)  # least cost at which at least so much is removed
    choices = []
    for site in sites:
        levels = importance[site.name]
        gains = np.floor(levels.removed * site.unit_parameters / step + 1e-9).astype(np.int64)
        options = best[np.maximum(budget[None, :] - gains[:, None], 0)] + levels.costs[:, None]
        choice = options.argmin(axis=0)
        best = np.take_along_axis(options, choice[None], axis=0)[0]
        choices.append((gains, choice))
    if not np.isfinite(best[goal]):
        return None
    removed: dict[str, int] = {}
    for site, (gains, choice) in zip(reversed(sites), reversed(choices), strict=True):
        level = choice[goal]
        removed[site.name] = int(importance[site.name].removed[level])
        goal = max(0, goal - int(gains[level]))
    return removed
