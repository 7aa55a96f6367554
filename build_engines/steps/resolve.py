"""Step 1: find the model's files and settle what the recipe leaves to them."""

from __future__ import annotations

from dataclasses import asdict

from build_engines.context import BuildContext, StepOutcome
from build_engines.model_files import find_model
from build_engines.spec import settle_spec


class ResolveStep:
    """Reads the model folder; nothing is written."""

    name = "resolve"

    def run(self, context: BuildContext) -> StepOutcome:
        """Check files and settle task, pooling, labels and lengths."""
        context.files = find_model(context.recipe.model)
        context.spec = settle_spec(context.recipe, context.files)
        settled = asdict(context.spec)
        notes = settled.pop("notes")
        return StepOutcome(
            figures={
                "folder": str(context.files.folder),
                "model_type": context.files.config["model_type"],
                "weights_bytes": sum(path.stat().st_size for path in context.files.weights),
                "spec": settled,
                "sha256": context.files.hashes,
            },
            notes=tuple(notes),
        )
