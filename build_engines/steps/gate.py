"""Step 9: every candidate is judged, and the fastest that passes is served."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import build_engines
import python_backends
from build_engines.check.compare import Rows
from build_engines.check.execute import run_sequences
from build_engines.context import BuildContext, Candidate, StepOutcome
from build_engines.engines import ENGINES
from build_engines.gate.choose import fastest, refusal, throughput
from build_engines.gate.early import labelled_data, model_verdict
from build_engines.gate.judge import Evidence, judge, mend_for
from build_engines.gate.labelled import Labelled, metric_checks
from build_engines.gate.probe import Probe, grid_sequences, probe
from build_engines.gate.verdict import GateCheck, Verdict
from build_engines.gate.wording import describe_failure
from build_engines.model_files import file_sha256
from build_engines.texts import resolve_source
from build_engines.versions import source_hash

__all__ = ["GateStep", "model_verdict"]


class GateStep:
    """Judges all candidates; refuses to go on if none that the recipe asks for passes."""

    name = "gate"

    def run(self, context: BuildContext) -> StepOutcome:
        """Measure what is still missing, judge, choose."""
        verdicts = {"model": model_verdict(context)}
        reference, reused = self._reference(context)
        labelled = labelled_data(context)
        for part, candidate in context.candidates.items():
            probed, again = self._probe(context, candidate, reference)
            metrics, once_more = self._metrics(context, candidate, labelled)
            reused = reused and again and once_more
            baseline = context.baseline(candidate)
            evidence = Evidence(
                subject=part,
                precision=candidate.compiled.precision,
                texts=context.texts.held_out_texts if context.texts else (),
                rows=candidate.held_out,
                reference=context.reference,
                pruned=context.pruned is not None,
                unquantized=baseline.held_out if baseline else None,
                probe=probed,
                parity=candidate.parity,
                speed=candidate.speed,
                baseline=baseline.speed if baseline else None,
                metrics=metrics,
            )
            candidate.verdict = verdicts[part] = judge(evidence, context.settled, context.recipe)
        figures: dict[str, Any] = {
            "chosen": None,
            "verdicts": {part: verdict.as_dict() for part, verdict in verdicts.items()},
        }
        notes = self._choose(context, verdicts["model"], figures)
        figures["chosen"] = context.winner.part
        return StepOutcome(reused=reused, figures=figures, notes=notes)

    def _choose(self, context: BuildContext, model: Verdict, figures: dict[str, Any]) -> tuple[str, ...]:
        """Set ``chosen`` and say why.

        Raises:
            GateError: If nothing may be served.
        """
        asked = [candidate for candidate in context.candidates.values() if candidate.asked]
        passed = [c for c in asked if c.verdict is not None and c.verdict.passed]
        refused = [c.verdict for c in asked if c.verdict is not None and not c.verdict.passed]
        chosen = fastest(passed)
        notes = [f"not served: {v.subject}: {describe_failure(v.failures[0])}" for v in refused]
        if chosen is None or not model.passed:
            blamed = ([] if model.passed else [model]) + ([] if passed else refused)
            error = refusal(blamed, figures)
            if not context.force:
                raise error
            context.forced = True
            chosen = chosen or fastest(asked)
            notes = [
                f"FORCED: published although the gate refuses it. {error.what.removeprefix('refused: ')}"
            ]
        context.chosen = chosen
        if chosen is not None:
            notes.insert(0, _reason(chosen, passed or asked))
        return tuple(notes)

    def _reference(self, context: BuildContext) -> tuple[Rows, bool]:
        """What eager transformers answers to the grid's sequences, float32 [sequences, width]."""
        folder, reused = context.artifact(
            self.name,
            partial(self._make_reference, context),
            part="reference",
            export=context.keys["export"],
            texts=context.keys["tokenize"],
            code=source_hash(build_engines.__file__, "gate/probe.py", "check"),
        )
        rows: Rows = np.load(folder / "rows.npy", allow_pickle=False)
        return rows, reused

    def _make_reference(self, context: BuildContext, folder: Path) -> None:
        """Run the model that is served, pruned if it is."""
        from build_engines.check.reference import reference_outputs
        from build_engines.export.load import load_model

        spec = context.settled
        model = load_model(context.served_model, spec.task, "eager")
        sequences = grid_sequences(spec, context.texts.held_out if context.texts else None)
        np.save(folder / "rows.npy", reference_outputs(model, spec, sequences))

    def _probe(self, context: BuildContext, candidate: Candidate, reference: Rows) -> tuple[Probe, bool]:
        """Batch sizes, lengths, repetition, neighbours."""

        def make(folder: Path) -> None:
            compiled, batching = candidate.compiled, context.recipe.batching
            found = probe(
                ENGINES[compiled.engine].load(compiled, context.recipe.threads.engine),
                context.settled,
                compiled.layout,
                reference,
                context.texts.held_out if context.texts else None,
                batching.token_budget,
                batching.max_batch_size,
            )
            (folder / "probe.json").write_text(json.dumps(found.as_dict()), encoding="utf-8")

        folder, reused = context.artifact(
            self.name,
            make,
            part=candidate.part,
            compiled=context.keys[f"compile-{candidate.part}"],
            reference=context.keys["gate-reference"],
            token_budget=context.recipe.batching.token_budget,
            max_batch_size=context.recipe.batching.max_batch_size,
            threads=context.recipe.threads.engine,
            code=source_hash(build_engines.__file__, "gate/probe.py", "check")
            + source_hash(python_backends.__file__),
        )
        return Probe(**json.loads((folder / "probe.json").read_text(encoding="utf-8"))), reused

    def _metrics(
        self, context: BuildContext, candidate: Candidate, data: Labelled | None
    ) -> tuple[tuple[GateCheck, ...], bool]:
        """The task's own metric, of the dense model in float32 and of the candidate."""
        if data is None or context.recipe.gate.labelled is None:
            return (), True

        def dense(folder: Path) -> None:
            from build_engines.check.reference import reference_outputs
            from build_engines.export.load import load_model

            model = load_model(context.model, context.settled.task, "eager")
            np.save(folder / "rows.npy", reference_outputs(model, context.settled, data.sequences))

        def engine(folder: Path) -> None:
            compiled = candidate.compiled
            runner = ENGINES[compiled.engine].load(compiled, context.recipe.threads.engine)
            budget = context.recipe.batching.token_budget
            rows = run_sequences(runner, context.settled, compiled.layout, data.sequences, budget)
            np.save(folder / "rows.npy", rows)

        decides = {
            "data": file_sha256(resolve_source(context.recipe.gate.labelled, "gate.labelled")),
            "seed": context.recipe.calibration.seed,
            "tokenizer": context.keys["tokenize"],
            "code": source_hash(build_engines.__file__, "gate/labelled.py", "check"),
        }
        theirs, reused = context.artifact(
            self.name, dense, part="labelled-dense", files=context.model.hashes, **decides
        )
        mine, again = context.artifact(
            self.name,
            engine,
            part=f"labelled-{candidate.part}",
            compiled=context.keys[f"compile-{candidate.part}"],
            **decides,
        )
        rows, reference = (np.load(f / "rows.npy", allow_pickle=False) for f in (mine, theirs))
        gate = context.recipe.gate
        checks = metric_checks(
            data, rows, reference, context.settled, gate.metric_drop, mend_for(candidate.compiled.precision)
        )
        return checks, reused and again


def _reason(chosen: Candidate, rivals: list[Candidate]) -> str:
    """Say what is served, and why."""
    others = [
        f"{throughput(chosen) / throughput(c):.2f} times {c.part}"
        for c in rivals
        if c is not chosen and throughput(c)
    ]
    if not others:
        return f"{chosen.part} is served"
    return f"{chosen.part} chosen: {', '.join(others)} on the recipe's length mix"
