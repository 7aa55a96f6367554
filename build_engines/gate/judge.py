"""Holds what was measured of a candidate against the recipe's thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from build_engines.check.compare import Rows
from build_engines.check.parity import Parity
from build_engines.check.speed import Speed
from build_engines.gate.accuracy import Limits, accuracy_checks, at_least
from build_engines.gate.probe import Probe
from build_engines.gate.tolerance import Tolerance, to_itself, to_reference
from build_engines.gate.verdict import GateCheck, Outcome, Verdict
from build_engines.spec import ModelSpec
from tritonforge.recipe import Gate, Precision, Prune, Recipe

_RAISE_BITS: dict[Precision, str] = {
    "fp16": "try precision bf16 or fp32: activations may leave the range of float16",
    "bf16": "try precision fp16 or fp32",
    "int8": "calibrate on text like that which is served (calibration.texts, calibration.samples), name the "
    "worst layers in quantization.keep, or lower quantization.min_share; else precision fp16 or fp32",
    "fp8": "name the worst layers in quantization.keep; else precision fp16 or fp32",
    "int8-dynamic": "try precision int8 with calibration.texts, int8-weights, or fp32",
    "int8-weights": "try precision fp32",
    "int4-weights": "try precision int8-weights",
    "fp32": "the export is not the model any more; try layout: padded, and report it",
}
_SLOW = (
    "serve fp32, which is faster here; or set gate.min_speedup below what was measured, if the "
    "smaller engine is worth it for its memory"
)


def mend_for(precision: Precision) -> str:
    """What to try where an engine of this precision is not accurate enough."""
    return _RAISE_BITS[precision]


@dataclass(frozen=True)
class Evidence:
    """What was measured of one candidate, for :func:`judge`.

    Attributes:
        subject: Its name, for the verdict.
        precision: Of the linear layers.
        texts: The held-out texts; empty where the recipe names none.
        rows: The engine's rows for them, float32 [texts, width].
        reference: The dense model's, float32 [texts, width].
        pruned: Whether the engine's model is a pruned one.
        unquantized: Rows of the pruned model in float32, None where there are none to compare with.
        probe: Batch sizes, lengths, repetition, neighbours; None where there is no reference to run.
        parity: On random tokens; judged where there is no text.
        speed: On the length mix.
        baseline: The same engine's float32, on the same.
        metrics: Checks of the task's own metric.
    """

    subject: str
    precision: Precision
    texts: Sequence[str] = ()
    rows: Rows | None = None
    reference: Rows | None = None
    pruned: bool = False
    unquantized: Rows | None = None
    probe: Probe | None = None
    parity: Parity | None = None
    speed: Speed | None = None
    baseline: Speed | None = None
    metrics: tuple[GateCheck, ...] = ()


def judge(evidence: Evidence, spec: ModelSpec, recipe: Recipe) -> Verdict:
    """Judge one candidate.

    Args:
        evidence: What was measured.
        spec: The model.
        recipe: Its ``gate`` and ``prune`` sections hold the thresholds.
    """
    checks = [
        *_probe_checks(evidence, spec, recipe.gate),
        *_accuracy(evidence, spec, recipe),
        *evidence.metrics,
        _speed_check(evidence, recipe.gate),
    ]
    return Verdict(evidence.subject, tuple(checks))


def _probe_checks(evidence: Evidence, spec: ModelSpec, gate: Gate) -> list[GateCheck]:
    """Outputs by batch size and length, determinism, batch invariance."""
    probe, precision = evidence.probe, evidence.precision
    if probe is None:
        return [GateCheck("outputs", "skipped", detail="the reference of this model is not at hand")]
    reference, itself = (rule(precision, spec.task, gate) for rule in (to_reference, to_itself))
    cells = sorted(probe.cells, key=lambda cell: -cell["max_difference"])
    if reference.kind == "min_cosine":
        cells.sort(key=lambda cell: cell["min_cosine"])
    same = "bit for bit the same" if probe.bitwise else "not the same bits"
    return [
        _bounded(
            "outputs",
            cells[0],
            reference,
            f"{_cells(cells)} of {probe.source}, against eager transformers: {reference.kind}",
            cells,
            _RAISE_BITS[precision],
        ),
        _bounded(
            "determinism",
            probe.repeat,
            itself,
            f"the same batch twice: {same}; {itself.kind}",
            [],
            "an engine that answers at random cannot be judged: report it, and try another engine",
        ),
        _bounded(
            "batch_invariance",
            probe.neighbours,
            itself,
            f"texts alone, and among others in three orders: {itself.kind}",
            probe.worst,
            "the result of a text depends on its neighbours: try layout: padded or another engine"
            if precision != "int8-dynamic"
            else "ranges are taken over all texts of a run: try precision int8, or engine openvino",
        ),
    ]


def _bounded(
    name: str,
    figures: dict[str, float],
    tolerance: Tolerance,
    detail: str,
    worst: Sequence[dict[str, float]],
    mend: str,
) -> GateCheck:
    """A check by whichever figure the tolerance is about."""
    figure = figures[tolerance.kind]
    outcome: Outcome = "pass" if tolerance.allows(figure) else "fail"
    return GateCheck(name, outcome, figure, tolerance.bound, detail, tuple(worst), mend)


def _cells(cells: Sequence[dict[str, float]]) -> str:
    """The grid in words."""
    batches, tokens = (sorted({int(cell[key]) for cell in cells}) for key in ("batch", "tokens"))
    return f"batches of {', '.join(map(str, batches))} by {', '.join(map(str, tokens))} tokens"


def _accuracy(evidence: Evidence, spec: ModelSpec, recipe: Recipe) -> list[GateCheck]:
    """On held-out text against the dense model; a pruned model against both."""
    if evidence.rows is None or evidence.reference is None or not evidence.texts:
        return _parity(evidence, recipe.gate)
    gate = recipe.gate
    limits = Limits(
        gate.mean_cosine, gate.min_cosine, gate.overlap, gate.agreement, _RAISE_BITS[evidence.precision]
    )

    def compare(group: str, reference: Rows, limits: Limits, against: str) -> list[GateCheck]:
        assert evidence.rows is not None
        return accuracy_checks(
            group, spec, evidence.rows, reference, evidence.texts, limits, gate.top_k, against
        )

    if not evidence.pruned:
        return compare("accuracy", evidence.reference, limits, "the model in float32")
    quantized = evidence.precision != "fp32"
    checks = compare(
        "pruning",
        evidence.reference,
        _pruning_limits(recipe.prune, gate if quantized else None),
        "the dense model",
    )
    if quantized and evidence.unquantized is not None:
        checks += compare("accuracy", evidence.unquantized, limits, "the pruned model in float32")
    return checks


def _pruning_limits(prune: Prune, quantized: Gate | None) -> Limits:
    """A pruned model may lose what ``prune.min_accuracy`` says; quantization, its own share of the rest."""
    kept = prune.min_accuracy
    return Limits(
        mean_cosine=kept * (quantized.mean_cosine if quantized else 1),
        min_cosine=None,
        overlap=None,
        agreement=kept * (quantized.agreement if quantized else 1),
        mend="prune less (prune.sparsity), or let it recover (prune.distill_steps)",
    )


def _parity(evidence: Evidence, gate: Gate) -> list[GateCheck]:
    """Without text: cosine on random tokens, which says less."""
    parity = evidence.parity
    if parity is None:
        return [GateCheck("accuracy", "skipped", detail="there is no text to judge by")]
    about = f"{parity.sequences} sequences of random tokens, since the recipe names no text"
    mend = f"name calibration.texts, to judge by text; {_RAISE_BITS[evidence.precision]}"
    return [
        at_least("accuracy.mean_cosine", parity.mean_cosine, gate.mean_cosine, about, mend=mend),
        at_least("accuracy.min_cosine", parity.min_cosine, gate.min_cosine, about, mend=mend),
    ]


def _speed_check(evidence: Evidence, gate: Gate) -> GateCheck:
    """At least as fast as the same engine in float32."""
    if evidence.precision == "fp32":
        return GateCheck("speed", "skipped", detail="float32 is the measure of the others")
    if evidence.speed is None or evidence.baseline is None:
        return GateCheck("speed", "skipped", detail="there is no float32 engine beside it to measure against")
    mine, theirs = evidence.speed.sequences_per_second, evidence.baseline.sequences_per_second
    detail = f"{mine:.0f} texts/s, {theirs:.0f} in float32, on the length mix"
    return at_least("speed", mine / theirs, gate.min_speedup, detail, mend=_SLOW)
