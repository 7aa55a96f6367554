"""Step 4: safetensors to ONNX, packed where possible."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import build_engines
from build_engines.context import BuildContext, StepOutcome
from build_engines.versions import EXPORT_PACKAGES, package_versions, source_hash


class ExportStep:
    """Writes ``model.onnx``, and what eager transformers answers to random tokens and held-out text."""

    name = "export"

    def run(self, context: BuildContext) -> StepOutcome:
        """Export, or reuse the export of the same weights by the same code."""
        decides: dict[str, Any] = {
            "files": context.model.hashes,
            "spec": {k: v for k, v in asdict(context.settled).items() if k not in {"notes", "labels"}},
            "versions": package_versions(EXPORT_PACKAGES),
            "code": source_hash(build_engines.__file__, "export", "check/reference.py", "check/samples.py"),
        }
        folder, reused = context.artifact(
            self.name,
            lambda into: self._make(context, into),
            layout=context.recipe.layout,
            pruned=context.keys.get("prune") if context.pruned else None,
            **decides,
        )
        if context.texts is not None:
            answers, again = context.artifact(
                self.name,
                lambda into: self._make_reference(context, into),
                part="reference",
                texts=context.keys["tokenize"],
                **decides,
            )
            context.reference = np.load(answers / "rows.npy", allow_pickle=False)
            reused &= again
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
        from build_engines.check.parity import parity_sequences
        from build_engines.check.reference import reference_outputs
        from build_engines.check.samples import parity_lengths
        from build_engines.export.load import load_model
        from build_engines.export.onnx import export_onnx

        spec = context.settled
        exported = export_onnx(context.served_model, spec, context.recipe.layout, folder / "model.onnx")
        sequences = parity_sequences(spec, parity_lengths(spec.max_length))
        rows = reference_outputs(load_model(context.served_model, spec.task, "eager"), spec, sequences)
        np.savez(
            folder / "reference.npz",
            tokens=np.concatenate(sequences),
            lengths=np.array([len(ids) for ids in sequences]),
            rows=rows,
        )
        facts = {"layout": exported.layout, "notes": [exported.note] if exported.note else []}
        (folder / "export.json").write_text(json.dumps(facts), encoding="utf-8")

    def _make_reference(self, context: BuildContext, folder: Path) -> None:
        """What the dense model answers to the held-out texts."""
        from build_engines.check.reference import reference_outputs
        from build_engines.export.load import load_model

        assert context.texts is not None
        spec = context.settled
        model = load_model(context.model, spec.task, "eager")
        np.save(folder / "rows.npy", reference_outputs(model, spec, context.texts.held_out))
