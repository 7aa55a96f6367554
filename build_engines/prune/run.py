"""Prunes a model as a recipe asks, keeps its accuracy or says what it would cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from build_engines.model_files import ModelFiles
from build_engines.prune.distill import Training, distill
from build_engines.prune.importance import Importance, allocate, measure
from build_engines.prune.reconstruct import prune_sites, reconstruct
from build_engines.prune.running import Subject, accuracy, load_subject, make_batches
from build_engines.prune.store import changed_weights, save_pruned
from build_engines.spec import ModelSpec
from tritonforge.errors import PruningError
from tritonforge.recipe import Prune

FITTED_TOKENS = 32_768  # of the calibration text, for moments and least squares
_JUDGED_TOKENS = 2_048  # of the calibration text, to measure what a site bears
_STEP = 0.1  # of the curve
_FEWEST = 8  # sequences on either side
T = TypeVar("T")


@dataclass(frozen=True)
class CurvePoint:
    """What one sparsity came to.

    Attributes:
        asked: Sparsity that was asked for.
        reached: Sparsity after rounding to whole heads and blocks of channels.
        parameters: Of the whole model, embeddings included.
        accuracy: Against the dense model on held-out text, before any distillation.
    """

    asked: float
    reached: float
    parameters: int
    accuracy: float


@dataclass(frozen=True)
class PruneReport:
    """What pruning did.

    Attributes:
        curve: By rising sparsity; the last point is the model that was written.
        accuracy: Of the model that was written, after distillation if there was any.
        accuracy_before_distillation: The same before.
        distill_steps: Steps of distillation.
        losses: Of the distillation, every tenth part of it.
        heads: Heads left and heads before, by layer.
        channels: Channels left and channels before, by layer.
        parameters: Of the whole model, after.
        dense_parameters: Of the whole model, before.
        flops_left: Share of the multiply-adds of the encoder's layers, on text of ``tokens`` tokens.
        tokens: Mean length of the calibration text.
        seconds: By part of the work.
        notes: What a reader should know.
    """

    curve: list[CurvePoint]
    accuracy: float
    accuracy_before_distillation: float
    distill_steps: int
    losses: list[float]
    heads: dict[str, tuple[int, int]]
    channels: dict[str, tuple[int, int]]
    parameters: int
    dense_parameters: int
    flops_left: float
    tokens: float
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Fits JSON; the curve as a list of mappings."""
        return asdict(self)


def prune_model(
    files: ModelFiles,
    spec: ModelSpec,
    sequences: Sequence[NDArray[np.int32]],
    judged_on: Sequence[NDArray[np.int32]],
    recipe_prune: Prune,
    folder: Path,
    *,
    seed: int,
    progress: Callable[[str], None] = lambda message: None,
) -> PruneReport:
    """Prune to the recipe's sparsity and write what :func:`~build_engines.prune.store.load_pruned` reads.

    Args:
        files: The dense model.
        spec: What it computes.
        sequences: Calibration text, int32 [n] each.
        judged_on: Held-out text, int32 [n] each; accuracy is measured on it.
        recipe_prune: Sparsity, least accuracy, steps of distillation.
        folder: An existing folder for ``pruned.safetensors`` and ``pruning.json``.
        seed: Of the choice of text and of distillation.
        progress: Called with a line when something slow begins.

    Raises:
        PruningError: If the family is unknown, the text too little, the sparsity out of reach, or the
            accuracy below the recipe's; then nothing is written.
    """
    work = _Work(files, spec, sequences, judged_on, recipe_prune, seed, progress)
    report = work.run()
    save_pruned(folder, changed_weights(work.dense, work.best), work.kept, report.as_dict())
    return report


class _Work:
    """One run of pruning."""

    def __init__(
        self,
        files: ModelFiles,
        spec: ModelSpec,
        sequences: Sequence[NDArray[np.int32]],
        judged_on: Sequence[NDArray[np.int32]],
        prune: Prune,
        seed: int,
        progress: Callable[[str], None],
    ) -> None:
        """Load the dense model and choose text."""
        if min(len(sequences), len(judged_on)) < _FEWEST:
            raise PruningError(
                f"{len(sequences)} calibration texts and {len(judged_on)} held-out texts are too few",
                where="calibration.texts",
                mend=f"give some hundred texts, {_FEWEST} at the very least on either side",
            )
        self.files = files = replace(files, pruned=None)
        self.spec, self.prune, self.seed, self.progress = spec, prune, seed, progress
        self.seconds: dict[str, float] = {}
        self.dense = self.best = load_subject(files, spec)
        order = np.random.default_rng(seed).permutation(len(sequences))
        self.shuffled = [sequences[i] for i in order]
        self.fitted = make_batches(_up_to(self.shuffled, FITTED_TOKENS))
        self.judged = make_batches(judged_on)
        self.wanted = self.dense.outputs(self.judged)
        if not bool(torch.isfinite(self.wanted).all()):
            raise PruningError(
                "the dense model gives NaN or Inf", where=files.source, mend="check the model's weights"
            )
        self.importance: dict[str, Importance] = {}
        self.removed = {site.name: 0 for site in self.dense.sites}
        self.notes: list[str] = []

    @property
    def kept(self) -> dict[str, list[int]]:
        """Units that stay, by site."""
        if not self.importance:
            return {site.name: list(range(site.units)) for site in self.dense.sites}
        return {name: self.importance[name].keep(count).tolist() for name, count in self.removed.items()}

    def run(self) -> PruneReport:
        """Measure, prune along the curve, distil, judge."""
        target = self.prune.sparsity
        if target == 0:
            return self._report([], 1.0, 1.0, [])
        self._timed("importance", self._measure)
        plans = {asked: self._plan(asked) for asked in _asked(target)}
        curve = self._timed("pruning", lambda: [self._point(asked, plan) for asked, plan in plans.items()])
        before = after = curve[-1].accuracy
        losses: list[float] = []
        if self.prune.distill_steps:
            losses, after = self._timed("distillation", lambda: self._distill(before))
        if after < self.prune.min_accuracy:
            raise self._too_lossy(curve, after)
        return self._report(curve, before, after, losses)

    def _measure(self) -> None:
        """Importance of all sites, on calibration text alone."""
        kinds = {name for name in ("heads", "channels") if getattr(self.prune, name)}
        few = make_batches(_up_to(self.shuffled, _JUDGED_TOKENS))
        self.importance = measure(
            self.dense, self.fitted, few, kinds, self.prune.channel_multiple, self.progress
        )

    def _plan(self, asked: float) -> dict[str, int]:
        """Units to take out of each site."""
        removed = allocate(self.dense.sites, self.importance, asked)
        if removed is not None:
            return removed
        total = sum(site.units * site.unit_parameters for site in self.dense.sites)
        most = sum(
            int(self.importance[site.name].removed[-1]) * site.unit_parameters for site in self.dense.sites
        )
        raise PruningError(
            f"sparsity {asked:g} cannot be reached: {most / total:.3f} is the most that can go, since each "
            "layer keeps a head and a block of channels",
            where="prune.sparsity",
            mend="lower `prune.sparsity`, or let both `prune.heads` and `prune.channels` go",
        )

    def _point(self, asked: float, removed: dict[str, int]) -> CurvePoint:
        """Prune a fresh copy of the dense model; the last one stays in ``best``."""
        self.progress(f"pruning to sparsity {asked:g}")
        self.best, self.removed = load_subject(self.files, self.spec), removed
        prune_sites(self.best, self.importance, removed)
        if not reconstruct(self.dense, self.best, self.fitted, self.progress):
            self.notes = [
                "layers share weights: each projection was refitted by itself, not one after another"
            ]
        total = sum(site.units * site.unit_parameters for site in self.dense.sites)
        gone = sum(removed[site.name] * site.unit_parameters for site in self.dense.sites)
        return CurvePoint(asked, gone / total, _parameters(self.best), self._accuracy(self.best))

    def _distill(self, before: float) -> tuple[list[float], float]:
        """Train the last point's model; give some losses and the accuracy. Worse is undone."""
        layers = self.best.layers.values()
        weights = [parameter.clone() for layer in layers for parameter in layer.parameters()]
        training = Training(self.prune.distill_steps, seed=self.seed)
        losses = distill(self.dense, self.best, self.shuffled, training, self.progress)
        after = self._accuracy(self.best)
        if not after >= before:  # also true for NaN
            parameters = (parameter for layer in layers for parameter in layer.parameters())
            with torch.no_grad():
                for parameter, weight in zip(parameters, weights, strict=True):
                    parameter.copy_(weight)
            self.notes.append(f"distillation was undone: it led to accuracy {after:.4f}")
            after = before
        return losses[:: max(1, len(losses) // 10)], after

    def _accuracy(self, subject: Subject) -> float:
        """On held-out text."""
        return accuracy(self.spec, subject.outputs(self.judged), self.wanted)

    def _timed(self, part: str, work: Callable[[], T]) -> T:
        """Count the seconds of a part."""
        start = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def _report(
        self, curve: list[CurvePoint], before: float, after: float, losses: list[float]
    ) -> PruneReport:
        """Put everything together."""
        pairs = list(zip(self.dense.sites, self.best.sites, strict=True))
        left: dict[str, dict[str, tuple[int, int]]] = {"heads": {}, "channels": {}}
        for dense, pruned in pairs:
            left[dense.kind][dense.name.rsplit(".", 1)[0]] = (pruned.size, dense.size)
        tokens = float(np.mean([len(ids) for ids in self.shuffled]))
        return PruneReport(
            curve=curve,
            accuracy=after,
            accuracy_before_distillation=before,
            distill_steps=self.prune.distill_steps if curve else 0,
            losses=losses,
            heads=left["heads"],
            channels=left["channels"],
            parameters=_parameters(self.best),
            dense_parameters=_parameters(self.dense),
            flops_left=_flops(self.best, tokens) / _flops(self.dense, tokens),
            tokens=tokens,
            seconds={part: round(seconds, 1) for part, seconds in self.seconds.items()},
            notes=self.notes,
        )

    def _too_lossy(self, curve: list[CurvePoint], after: float) -> PruningError:
        """Say what each sparsity costs, and what to try."""
        steps = self.prune.distill_steps
        distilled = f" after {steps} steps of distillation" if steps else ""
        points = ", ".join(f"{point.reached:.2f} -> {point.accuracy:.4f}" for point in curve)
        good = [point.asked for point in curve if point.accuracy >= self.prune.min_accuracy]
        lower = f": {max(good):g}`" if good else f"` below {curve[0].asked:g}"
        return PruningError(
            f"at sparsity {curve[-1].reached:.2f} accuracy is {after:.4f} of the dense model's{distilled}, "
            f"below {self.prune.min_accuracy:g}; sparsity -> accuracy without distillation: {points}",
            where="prune.min_accuracy",
            mend=f"set `prune.sparsity{lower}, or `prune.distill_steps: {2 * steps or 500}`, "
            "or lower `prune.min_accuracy`",
        )


def _asked(target: float) -> list[float]:
    """Points of the curve: every tenth below the target, and the target."""
    tenths = [round(_STEP * i, 10) for i in range(1, 10)]
    return [*(tenth for tenth in tenths if tenth < target - _STEP / 4), target]


def _up_to(sequences: Sequence[NDArray[np.int32]], tokens: int) -> list[NDArray[np.int32]]:
    """The first sequences that hold so many tokens, at least one."""
    ends = np.cumsum([len(ids) for ids in sequences])
    return list(sequences[: max(1, int(np.searchsorted(ends, tokens, side="right")))])


def _parameters(subject: Subject) -> int:
    """Of the whole model, shared ones once."""
    return sum(parameter.numel() for parameter in subject.module.parameters())


def _flops(subject: Subject, tokens: float) -> float:
    """Multiply-adds a token of linear layers and attention products in all layers, each site once."""
    linear = sum(
        site.output.weight.numel() + sum(source.linear.weight.numel() for source in site.sources)
        for site in subject.sites
    )
    products = sum(2 * tokens * site.output.in_features for site in subject.sites if site.kind == "heads")
    return linear + products
