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
from build_engines.prune.solve import RIDGE, refit


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
            fit = _Fit(site, iter(wanted[site.name]))
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
    """Least squares for one output projection and its bias, drawn towards what they were."""

    def __init__(self, site: Site, wanted: object) -> None:
        """Start with empty sums; ``wanted`` is an iterator over the dense model's batches."""
        self.site = site
        self.wanted = iter(wanted)  # type: ignore[call-overload]
        self.biased = site.output.bias is not None
        size = site.output.in_features + self.biased
        self.moments = torch.zeros(size, size)
        self.targets = torch.zeros(size, site.output.out_features)

    def add(self, site: Site, seen: Seen) -> None:
        """Count one batch of the pruned model."""
        dense: Seen = next(self.wanted)
        # What is missing on top of what the projection gives now.
        missing = dense.outputs + dense.residual - seen.residual - seen.outputs
        inputs = seen.inputs
        if self.biased:
            inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
        self.moments.addmm_(inputs.t(), inputs)
        self.targets.addmm_(inputs.t(), missing)

    def solve(self) -> None:
        """Add the fitted change to weight and bias."""
        exact = self.moments.double()
        exact.diagonal().add_(RIDGE * exact.diagonal().mean() + 1e-12)
        change = torch.linalg.solve(exact, self.targets.double()).float()
        features = self.site.output.in_features
        self.site.output.weight.add_(change[:features].t())
        if self.biased:
            self.site.output.bias.add_(change[features])
