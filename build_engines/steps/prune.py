"""Step 3: a smaller model, where the recipe asks for one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import build_engines
from build_engines.context import BuildContext, StepOutcome
from build_engines.versions import EXPORT_PACKAGES, package_versions, source_hash


class PruneStep:
    """Takes heads and channels out, and leaves the folder of pruned weights in the context."""

    name = "prune"

    def run(self, context: BuildContext) -> StepOutcome:
        """Prune, or reuse what was pruned of the same weights on the same text."""
        prune = context.recipe.prune
        if prune.sparsity == 0:
            return StepOutcome(skipped=True)
        folder, reused = context.artifact(
            self.name,
            lambda into: self._make(context, into),
            files=context.model.hashes,
            spec={k: v for k, v in asdict(context.settled).items() if k not in {"notes", "labels"}},
            texts=context.keys["tokenize"],
            prune=prune.model_dump(),
            seed=context.recipe.calibration.seed,
            versions=package_versions(EXPORT_PACKAGES),
            code=source_hash(build_engines.__file__, "prune", "export"),
        )
        context.pruned = folder
        figures: dict[str, Any] = json.loads((folder / "pruning.json").read_text(encoding="utf-8"))["report"]
        return StepOutcome(reused=reused, figures=figures, notes=tuple(figures.pop("notes")))

    def _make(self, context: BuildContext, folder: Path) -> None:
        """Prune into an empty folder."""
        from build_engines.prune import prune_model

        assert context.texts is not None  # the tokenize step asks for text where there is pruning
        prune_model(
            context.model,
            context.settled,
            context.texts.calibration,
            context.texts.held_out,
            context.recipe.prune,
            folder,
            seed=context.recipe.calibration.seed,
            progress=context.progress,
        )
