"""Takes units out and refits, layer by layer, what reads the units that are left.

Each output projection is fitted by least squares on what it is given in the *pruned* model, to what brings
the stream behind it back to the dense model's: the dense output plus the difference of the residual streams.
So a layer makes up for what the layers before it lost, as far as it can (as the mask tuning of Kwon et al.
2022 does for each layer by itself). No gradients, no epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from build_engines.prune.importance import Importance
from build_engines.prune.running import Batch, LayerCall, Seen, Subject, layer_calls, watch
from build_engines.prune.sites import Site, shrink
from build_engines.prune.solve import refit, ridge

_FOLDS = 5
_RIDGES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)


@torch.no_grad()
def prune_sites(subject: Subject, importance: Mapping[str, Importance], removed: Mapping[str, int]) -> None:
    """Take units out of a dense model, each site refitted by itself."""
    for site in subject.sites:
        if not removed[site.name]:
            continue
        levels = importance[site.name]
        keep = levels.keep(removed[site.name])
        fitted = refit(levels.moments, site.output.weight, site.columns(keep))
        shrink(site, keep.tolist())
        site.output.weight.copy_(fitted)


@torch.no_grad()
def reconstruct(
    dense: Subject, pruned: Subject, batches: Sequence[Batch], progress: Callable[[str], None]
) -> bool:
    """Refit all output projections of a pruned model in the order in which data passes them.

    Args:
        dense: The model it was made from.
        pruned: With units taken out; changed in place.
        batches: Calibration text.
        progress: Called with a line for each layer.

    Returns:
        False if the model's layers share weights, so that none can be fitted after another.
    """
    recorded = [layer_calls(dense, batch) for batch in batches]
    calls = [found for _, found in recorded]
    if len({id(call.layer) for call in calls[0]}) < len(calls[0]):
        return False
    pairs = zip(dense.layers.values(), pruned.layers.values(), strict=True)
    counterpart = {id(layer): other for layer, other in pairs}
    streams = [(first, first) for first, _ in recorded]
    for depth, call in enumerate(calls[0]):
        progress(f"refitting layer {depth + 1} of {len(calls[0])}")
        layer = _Layer(
            [found[depth] for found in calls], batches, counterpart[id(call.layer)], dense.sites, pruned.sites
        )
        streams = layer.fit(streams)
    return True


@dataclass(frozen=True)
class _Layer:
    """One layer of both models, with how it is called for each batch."""

    calls: list[LayerCall]
    batches: Sequence[Batch]
    pruned: nn.Module
    dense_sites: list[Site]
    pruned_sites: list[Site]

    def fit(self, streams: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Fit the layer's sites, and give what both models hand to the next layer, for each batch."""
        dense_layer = self.calls[0].layer
        wanted: dict[str, list[Seen]] = {}
        with watch(
            [site for site in self.dense_sites if site.layer is dense_layer],
            lambda site, seen: wanted.setdefault(site.name, []).append(seen),
        ):
            after = [self._run(number, hidden, dense_layer) for number, (hidden, _) in enumerate(streams)]
        for site in [site for site in self.pruned_sites if site.layer is self.pruned]:
            fit = _Fit(site, wanted[site.name])
            with watch([site], fit.add):
                for number, (_, hidden) in enumerate(streams):
                    self._run(number, hidden, self.pruned)
            fit.solve()
        return [
            (dense, self._run(number, hidden, self.pruned))
            for number, (dense, (_, hidden)) in enumerate(zip(after, streams, strict=True))
        ]

    def _run(self, number: int, hidden: Tensor, layer: nn.Module) -> Tensor:
        """The layer on one batch."""
        return self.calls[number](hidden, self.batches[number].layout, layer)


class _Fit:
    """Ridge regression for the change of one output projection and its bias.

    The dense model's stream is not a linear function of what the projection reads, so plain least squares
    would fit noise. Every fifth batch is left out to choose the ridge by (the largest leaves all as it was).
    """

    def __init__(self, site: Site, wanted: list[Seen]) -> None:
        """Start with empty sums; ``wanted`` is what the dense model had, batch by batch."""
        self.site = site
        self.wanted = iter(wanted)
        self.biased = site.output.bias is not None
        size = site.output.in_features + self.biased
        self.sums = [
            _Sums(torch.zeros(size, size), torch.zeros(size, site.output.out_features)) for _ in "ab"
        ]
        self.seen = 0

    def add(self, site: Site, seen: Seen) -> None:
        """Count one batch of the pruned model."""
        dense = next(self.wanted)
        # What is missing on top of what the projection gives now.
        missing = dense.outputs + dense.residual - seen.residual - seen.outputs
        inputs = seen.inputs
        if self.biased:
            inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
        sums = self.sums[self.seen % _FOLDS == _FOLDS - 1]
        sums.moments.addmm_(inputs.t(), inputs)
        sums.targets.addmm_(inputs.t(), missing)
        self.seen += 1

    def solve(self) -> None:
        """Add the change that holds best on the batches left out, fitted anew on all."""
        fitted, left_out = self.sums
        if self.seen < _FOLDS:
            return
        gains = [left_out.gain(fitted.change(share)) for share in _RIDGES]
        best = max(range(len(gains)), key=gains.__getitem__)
        if not gains[best] > 0:
            return
        everything = _Sums(fitted.moments + left_out.moments, fitted.targets + left_out.targets)
        change = everything.change(_RIDGES[best]).float()
        features = self.site.output.in_features
        self.site.output.weight.add_(change[:features].t())
        if self.biased:
            self.site.output.bias.add_(change[features])


@dataclass(frozen=True)
class _Sums:
    """Of products of inputs [features, features], and of inputs and targets [features, outputs]."""

    moments: Tensor
    targets: Tensor

    def change(self, share: float) -> Tensor:
        """Ridge regression, the ridge a share of the mean diagonal; float64 [features, outputs]."""
        solved: Tensor = torch.linalg.solve(ridge(self.moments, share), self.targets.double())
        return solved

    def gain(self, change: Tensor) -> float:
        """By how much a change lowers the squared error."""
        return float((change * (2 * self.targets.double() - self.moments.double() @ change)).sum())
