"""The calibrated quantizer: observe, search, choose, write, verify."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from build_engines.check.compare import cosines
from build_engines.compress.int8.attention import find_attentions, quantize_attentions
from build_engines.compress.int8.graph import Graph, Group, Linear, group_by_source
from build_engines.compress.int8.number import NUMBERS, Number, NumberName
from build_engines.compress.int8.observe import Observation, observe
from build_engines.compress.int8.probes import Slices, divide
from build_engines.compress.int8.ranges import candidate_ranges
from build_engines.compress.int8.report import LayerRow, QuantizationReport
from build_engines.compress.int8.rewrite import Rewriter
from build_engines.compress.int8.search import GroupSearch, Plan, Tried
from build_engines.compress.int8.select import Score, Selector, score
from build_engines.compress.int8.session import Batches, GraphSession, save_model
from build_engines.compress.int8.survey import Survey, centre_of, sample_observation, survey
from build_engines.compress.int8.switchboard import Switchboard
from build_engines.spec import ModelSpec
from tritonforge.errors import CalibrationError
from tritonforge.recipe import Layout
from tritonforge.recipe.sections import Calibration, Gate, Quantization

_ROWS = 512
_OTHERS = 4
_OVERFLOW = 1.5
# Where the written graph and the switchboard differ by more than this, a fold was not exact.
_SAME = 0.998


def quantize_calibrated(
    source: Path,
    target: Path,
    sequences: Sequence[NDArray[np.int32]],
    spec: ModelSpec,
    *,
    layout: Layout,
    quantization: Quantization,
    calibration: Calibration,
    gate: Gate,
    number: NumberName = "int8",
    token_budget: int = 4096,
    threads: int = 0,
    progress: Callable[[str], None] = lambda message: None,
) -> QuantizationReport:
    """Quantize a float32 ONNX export with explicit Q/DQ.

    A fifth of the sequences is held out of the calibration to choose layers by.

    Args:
        source: The export; packed or padded.
        target: File to write; weights of large models go beside it as ``NAME.data``.
        sequences: Token ids of the calibration text, int32 [n] each.
        spec: The model.
        layout: Inputs of the graph.
        quantization: Which layers, and how.
        calibration: Method, seed, and how many sequences were asked for.
        gate: Cosines that must hold on the held-out slice.
        number: ``int8``, or ``fp8`` for E4M3 with scales of range / 448.
        token_budget: Tokens of one run at most.
        threads: Of ONNX Runtime; 0: all cores.
        progress: Called with a line when something slow begins.

    Returns:
        What was chosen, and the agreement that was measured with the written graph in ONNX Runtime.

    Raises:
        CalibrationError: If there is no text, no linear layer, or the gate cannot be held with
            ``quantization.min_share`` of the multiply-adds quantized.
    """
    usable = [ids for ids in sequences if len(ids)]
    if not usable:
        raise CalibrationError(
            "there is no calibration text",
            where="calibration.texts",
            mend="name a file, a folder or package:NAME/PATH with at least some hundred texts",
        )
    job = _Job(
        graph=Graph.load(source),
        number=NUMBERS[number],
        slices=divide(usable, calibration.samples, spec.vocab_size, calibration.seed),
        batches=Batches(spec, layout, token_budget),
        quantization=quantization,
        calibration=calibration,
        gate=gate,
        threads=threads,
        progress=progress,
        seconds={},
        notes=[],
    )
    return job.run(target)


@dataclass(frozen=True)
class _Job:
    """One quantization under way."""

    graph: Graph
    number: Number
    slices: Slices
    batches: Batches
    quantization: Quantization
    calibration: Calibration
    gate: Gate
    threads: int
    progress: Callable[[str], None]
    seconds: dict[str, float]
    notes: list[str]
    tried: dict[str, Tried] = field(default_factory=dict)  # by group: searches come back to some

    def run(self, target: Path) -> QuantizationReport:
        """All stages."""
        if any(node.op_type == "QuantizeLinear" for node in self.graph.model.graph.node):
            raise CalibrationError("is quantized already", mend="give the float32 export")
        linears = self.graph.linears
        if not linears:
            raise CalibrationError("the graph has no linear layer that could be quantized", where="model")
        with self._stage("observe"):
            fitted, judged = self._observe(group_by_source(linears))
        shares, reasons = self._candidates(linears, fitted)
        groups = group_by_source([linear for linear in linears if linear.name not in reasons])
        self._check_share(shares, reasons)
        group_shares = {g.name: sum(shares[m.name] for m in g.members) for g in groups}
        with self._stage("search"):
            choices = self._plans(groups, fitted, judged)
        with Switchboard(self.graph, groups, self.number, self.batches, self.threads) as board:
            texts = self.slices.texts if self.batches.spec.task == "embedding" else 0
            selector = Selector(board, self.slices.validation, group_shares, self.gate, texts)
            with self._stage("sensitivity"):
                plans = selector.better(choices)
                sensitivity = selector.sensitivity(plans)
                plans, sensitivity = selector.refined(
                    plans, sensitivity, lambda plan: self._others(plan, fitted, judged)
                )
                plans = selector.with_headroom(plans, sensitivity)
            with self._stage("select"):
                chosen = selector.select(plans, sensitivity, self.quantization.min_share)
                reference = board.answer(self.slices.validation, [])
                expected = board.answer(self.slices.validation, chosen)
        with self._stage("write"):
            model, migrations, found = self._rewrite(chosen, linears, expected)
            attentions = 0
            if self.quantization.attention:
                model, attentions, found = self._attention(model)
        final = score(found, reference)
        self._check_final(final, bool(attentions))
        partial = target.with_name(f".{target.name}.partial")
        save_model(model, partial)
        partial.replace(target)
        return QuantizationReport(
            number=self.number.name,
            share=sum(group_shares[plan.group.name] for plan in chosen),
            mean_cosine=final.mean,
            min_cosine=final.worst,
            layers=tuple(self._rows(linears, shares, reasons, plans, chosen, migrations, sensitivity)),
            sensitivity=tuple(sensitivity),
            curve=tuple(selector.curve),
            attention=attentions,
            notes=(*self.slices.notes, *self.notes),
            seconds={name: round(value, 2) for name, value in self.seconds.items()},
        )

    def _observe(self, groups: Sequence[Group]) -> tuple[dict[str, Observation], dict[str, Survey]]:
        """What the inputs of all groups look like, on the fitting text and on the judging text."""
        tensors = [(group.source, group.channels) for group in groups]
        arguments = {"rows": _ROWS, "seed": self.calibration.seed, "threads": self.threads}
        judged = survey(self.graph, tensors, self.slices.judge, self.batches, **arguments)
        found = {
            group.source: centre_of(self.graph, group, judged[group.source], self.number)
            for group in groups
            if self.quantization.smooth
        }
        centres = {name: centre for name, centre in found.items() if centre is not None}
        fitted = observe(self.graph, tensors, self.slices.fit, self.batches, **arguments, centres=centres)
        wide = [
            group.name
            for group in groups
            if judged[group.source].peaks(centres.get(group.source)).max(initial=0)
            > _OVERFLOW * fitted[group.source].histogram.maxima.max(initial=0)
        ]
        if wide:
            self.notes.append(
                f"{len(wide)} of {len(groups)} ranges overflow by more than {_OVERFLOW:.1f} times on "
                f"calibration text that they were not fitted to ({', '.join(wide[:3])}): "
                "give more, or more varied, text"
            )
        return fitted, judged

    def _candidates(
        self, linears: Sequence[Linear], fitted: dict[str, Observation]
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Share of the multiply-adds by layer, and why some layers are not to be quantized."""
        work = {x.name: x.inputs * x.outputs * fitted[x.source].rows_per_token for x in linears}
        total = sum(work.values())
        reasons = {}
        for linear in linears:
            if fitted[linear.source].per_sequence:
                reasons[linear.name] = "works on whole texts, not on tokens"
            if any(fnmatchcase(linear.name, pattern) for pattern in self.quantization.keep):
                reasons[linear.name] = "quantization.keep"
        unused = [
            pattern
            for pattern in self.quantization.keep
            if not any(fnmatchcase(linear.name, pattern) for linear in linears)
        ]
        if unused:
            self.notes.append(f"quantization.keep matches no layer: {', '.join(unused)}")
        return {name: value / total for name, value in work.items()}, reasons

    def _check_share(self, shares: dict[str, float], reasons: dict[str, str]) -> None:
        """Refuse at once what `keep` makes impossible."""
        possible = sum(share for name, share in shares.items() if name not in reasons)
        if possible < self.quantization.min_share - 1e-9:
            kept = ", ".join(f"{name} ({shares[name]:.1%})" for name in list(reasons)[:5])
            raise CalibrationError(
                f"only {possible:.1%} of the linear multiply-adds may be quantized, and "
                f"quantization.min_share asks for {self.quantization.min_share:.1%}; left alone: {kept}",
                where="quantization",
                mend="keep fewer layers (quantization.keep), or lower quantization.min_share",
            )

    def _plans(
        self, groups: Sequence[Group], fitted: dict[str, Observation], judged: dict[str, Survey]
    ) -> list[list[Plan]]:
        """Complete sets of plans to choose from: the recipe's method; for auto the unclipped one as well."""
        method = self.calibration.method
        methods = ["auto", "max"] if method == "auto" else [method]
        sets: list[list[Plan]] = [[] for _ in methods]
        for number, group in enumerate(groups, 1):
            self.progress(f"search {number}/{len(groups)} {group.name}")
            search, maxima = self._search(group, fitted, judged)
            for plans, name in zip(sets, methods, strict=True):
                best = search.widened(search.best(name, self.quantization.smooth), maxima)
                plans.append(search.corrected(best))
        return sets

    def _others(self, plan: Plan, fitted: dict[str, Observation], judged: dict[str, Survey]) -> list[Plan]:
        """Other plans of a group, for its refinement."""
        if not self.quantization.smooth:
            return []
        search, maxima = self._search(plan.group, fitted, judged)
        method = self.calibration.method
        found = []
        for name in ("auto", "max") if method == "auto" else (method,):
            found += [search.corrected(search.widened(p, maxima)) for p in search.others(name, _OTHERS)]
        if all(member.bias is not None for member in plan.group.members):  # the other choice of centre
            seen = judged[plan.group.source]
            centre = seen.middle if plan.centre is None else None
            view = sample_observation(seen, centre)
            search = GroupSearch(self.graph, plan.group, view, view.sample, self.number)
            found += [search.corrected(p) for p in search.others(method, _OTHERS)]
        return found

    def _search(
        self, group: Group, fitted: dict[str, Observation], judged: dict[str, Survey]
    ) -> tuple[GroupSearch, NDArray[np.float32]]:
        """The search of one group, and the channel maxima of the judging text."""
        view, other = fitted[group.source], judged[group.source]
        rows = other.sample if view.centre is None else other.sample - view.centre
        tried = self.tried.setdefault(group.name, {})
        return GroupSearch(self.graph, group, view, rows, self.number, tried), other.peaks(view.centre)

    def _rewrite(
        self, chosen: Sequence[Plan], linears: Sequence[Linear], expected: NDArray[np.float32]
    ) -> tuple[onnx.ModelProto, dict[str, str], NDArray[np.float32]]:
        """The quantized graph, where migrations went, and its answers on the validation slice."""
        for fold in (True, False):
            writer = Rewriter(self.graph, self.number)
            model = writer.write(chosen, linears, fold=fold)
            found = self._answer(model)
            if float(cosines(found, expected).mean()) >= _SAME:
                return model, writer.migrations, found
            if fold:
                self.notes.append("migration could not be folded exactly into this graph: Mul nodes carry it")
        self.notes.append("ONNX Runtime's INT8 kernels and float32 emulation disagree on this model")
        return model, writer.migrations, found

    def _answer(self, model: onnx.ModelProto) -> NDArray[np.float32]:
        """Output of a model on the validation slice."""
        with GraphSession(model, self.batches, self.threads) as session:
            return session.answer(self.slices.validation)

    def _attention(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, int, NDArray[np.float32]]:
        """The graph with its attention products quantized."""
        graph = Graph(model)
        attentions = find_attentions(graph)
        if not attentions:
            self.notes.append(
                "quantization.attention: no attention was found whose output goes into a quantizer"
            )
        tensors = {t for a in attentions for kind, (_, _, t) in a.operands.items() if kind != "probabilities"}
        seen = observe(
            graph,
            [(tensor, 1) for tensor in sorted(tensors)],
            [*self.slices.fit, *self.slices.judge],
            self.batches,
            rows=1,
            seed=0,
            threads=self.threads,
        )
        method = "max" if self.calibration.method == "auto" else self.calibration.method
        ranges = {
            tensor: next(reversed(candidate_ranges(*view.histogram.merged(), self.number, method).values()))
            for tensor, view in seen.items()
        }
        quantized = quantize_attentions(model, attentions, ranges, self.number)
        return quantized, len(attentions), self._answer(quantized)

    def _check_final(self, final: Score, attention: bool) -> None:
        """The written graph itself must hold the gate."""
        if final.cosine_excess(self.gate) <= 1:
            return
        mend = "set quantization.attention: false" if attention else "lower quantization.min_share"
        raise CalibrationError(
            f"the written graph has cosine {final.mean:.4f} (mean) and {final.worst:.4f} (worst) to float32; "
            f"gate.mean_cosine {self.gate.mean_cosine} and gate.min_cosine {self.gate.min_cosine} are "
            "asked for",
            where="quantization",
            mend=mend,
        )

    def _rows(
        self,
        linears: Sequence[Linear],
        shares: dict[str, float],
        reasons: dict[str, str],
        plans: Sequence[Plan],
        chosen: Sequence[Plan],
        migrations: dict[str, str],
        sensitivity: Sequence[tuple[str, float, float]],
    ) -> Iterator[LayerRow]:
        """One row a layer."""
        by_member = {member.name: plan for plan in plans for member in plan.group.members}
        taken = {plan.group.name for plan in chosen}
        alone = {name: mean for name, mean, _ in sensitivity}
        for linear in linears:
            plan = by_member.get(linear.name)
            group = plan.group.name if plan else ""
            active = group in taken
            yield LayerRow(
                name=linear.name,
                role=linear.role,
                node=linear.node,
                group=group,
                share=shares[linear.name],
                precision=self.number.name if active else "float",
                reason="" if active else reasons.get(linear.name, "sensitive"),
                alpha=plan.alpha if plan and active else None,
                centred=plan is not None and active and plan.centre is not None,
                migration=migrations.get(group, ""),
                method=plan.method if plan and active else "",
                error=plan.error if plan else None,
                alone=alone.get(group),
            )

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        self.progress(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
