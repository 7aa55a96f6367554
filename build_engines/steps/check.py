"""Step 7: every candidate's numbers, against transformers' own and on held-out text."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import build_engines
import python_backends
from build_engines.check.execute import run_sequences
from build_engines.check.parity import Parity, check_parity
from build_engines.context import BuildContext, Candidate, StepOutcome
from build_engines.engines import ENGINES
from build_engines.versions import source_hash


class CheckStep:
    """Parity on lengths from 1 token to the longest, which float32 must pass; answers to held-out text."""

    name = "check"

    def run(self, context: BuildContext) -> StepOutcome:
        """Check, or reuse the figures of the same artefact."""
        figures: dict[str, Any] = {}
        all_reused = True
        for part, candidate in context.candidates.items():
            folder, reused = context.artifact(
                self.name,
                partial(self._make, context, candidate),
                part=part,
                compiled=context.keys[f"compile-{part}"],
                texts=context.keys["tokenize"],
                code=source_hash(build_engines.__file__, "check") + source_hash(python_backends.__file__),
            )
            all_reused &= reused
            candidate.parity = Parity(**json.loads((folder / "parity.json").read_text(encoding="utf-8")))
            if context.texts is not None:
                candidate.held_out = np.load(folder / "held_out.npy", allow_pickle=False)
            figures[part] = candidate.parity.figures()
        return StepOutcome(reused=all_reused, figures=figures)

    def _make(self, context: BuildContext, candidate: Candidate, folder: Path) -> None:
        """Load the engine and run it."""
        with np.load(context.exported.with_name("reference.npz"), allow_pickle=False) as saved:
            ends = np.cumsum(saved["lengths"])
            sequences = np.split(saved["tokens"], ends[:-1])
            reference = saved["rows"]
        compiled, spec = candidate.compiled, context.settled
        runner = ENGINES[compiled.engine].load(compiled, context.recipe.threads.engine)
        parity = check_parity(runner, compiled, spec, sequences, reference)
        if context.texts is not None:
            budget = context.recipe.batching.token_budget
            rows = run_sequences(runner, spec, compiled.layout, context.texts.held_out, budget)
            np.save(folder / "held_out.npy", rows)
        (folder / "parity.json").write_text(json.dumps(parity.figures()), encoding="utf-8")
