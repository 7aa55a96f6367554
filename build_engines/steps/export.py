"""Step 4: safetensors to ONNX, packed where possible."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import build_engines
from build_engines.context import BuildContext, StepOutcome
from build_engines.versions import EXPORT_PACKAGES, package_versions, source_hash


class ExportStep:
    """Writes ``model.onnx``, and ``reference.npz`` with what eager transformers answers."""

    name = "export"

    def run(self, context: BuildContext) -> StepOutcome:
        """Export, or reuse the export of the same weights by the same code."""
        folder, reused = context.artifact(
            self.name,
            lambda into: self._make(context, into),
            files=context.model.hashes,
            spec={k: v for k, v in asdict(context.settled).items() if k not in {"notes", "labels"}},
            layout=context.recipe.layout,
            versions=package_versions(EXPORT_PACKAGES),
            code=source_hash(build_engines.__file__, "export", "check"),
        )
        facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        context.layout = facts["layout"]
        context.onnx_path = folder / "model.onnx"
        return StepOutcome(
            reused=reused,
            figures={
                "layout": facts["layout"],
                "onnx_bytes": sum(p.stat().st_size for p in folder.glob("model.onnx*")),
            },
            notes=tuple(facts["notes"]),
        )

    def _make(self, context: BuildContext, folder: Path) -> None:
        """Export into an empty folder."""
        # torch and transformers take seconds to import; a build that reuses everything never needs them
        import numpy as np

        from build_engines.check.parity import parity_sequences
        from build_engines.check.reference import reference_outputs
        from build_engines.check.samples import parity_lengths
        from build_engines.export.load import load_model
        from build_engines.export.onnx import export_onnx

        spec = context.settled
        exported = export_onnx(context.model, spec, context.recipe.layout, folder / "model.onnx")
        sequences = parity_sequences(spec, parity_lengths(spec.max_length))
        rows = reference_outputs(load_model(context.model, spec.task, "eager"), spec, sequences)
        np.savez(
            folder / "reference.npz",
            tokens=np.concatenate(sequences),
            lengths=np.array([len(ids) for ids in sequences]),
            rows=rows,
        )
        facts = {"layout": exported.layout, "notes": [exported.note] if exported.note else []}
        (folder / "export.json").write_text(json.dumps(facts), encoding="utf-8")
