"""Step 6: every candidate beside the model in float32: likelihood of text, greedy answers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import build_engines
import python_backends
from build_engines.context import StepOutcome
from build_engines.generation.context import GenerationContext, GeneratorCandidate
from build_engines.texts import source_hashes
from build_engines.versions import package_versions, source_hash

_KV_TOKENS = 4096


class CheckStep:
    """Asks transformers once, and each candidate; the gate judges what came out."""

    name = "check"

    def run(self, context: GenerationContext) -> StepOutcome:
        """Check, or reuse the figures of the same artefact."""
        if context.engine == "tensorrt-llm":
            note = "nothing was checked: tensorrt-llm runs on its GPU only, after it is loaded there"
            return StepOutcome(skipped=True, notes=(note,))
        reference, reused = context.artifact(
            self.name,
            partial(self._make_reference, context),
            part="reference",
            files=context.model.hashes,
            tokenizer=context.keys["tokenize"],
            max_length=context.settled.max_length,
            sources=source_hashes(context.recipe),
            texts=[context.recipe.calibration.field, context.recipe.calibration.seed],
            versions=package_versions(("torch", "transformers")),
            code=source_hash(
                build_engines.__file__,
                "generation/reference.py",
                "generation/samples.py",
                "generation/fidelity.py",
                "generation/load.py",
                "export/load.py",
            ),
        )
        source = json.loads((reference / "source.json").read_text(encoding="utf-8"))
        figures: dict[str, Any] = {}
        for part, candidate in context.candidates.items():
            folder, again = context.artifact(
                self.name,
                partial(self._make, context, candidate, reference),
                part=part,
                compressed=context.keys[f"compress-{part}"],
                reference=context.keys["check-reference"],
                settings=[context.recipe.generation.model_dump(), context.recipe.threads.engine],
                spec=context.settled.figures(),
                versions=package_versions(("openvino", "openvino-genai")),
                code=source_hash(
                    build_engines.__file__,
                    "generation/answers.py",
                    "generation/fidelity.py",
                    "generation/repository.py",
                    "generation/serving.py",
                )
                + source_hash(python_backends.__file__, "generator"),
            )
            reused &= again
            figures[part] = json.loads((folder / "fidelity.json").read_text(encoding="utf-8"))
            candidate.checked = {**figures[part], "source": source}
        return StepOutcome(reused=reused, figures=figures, notes=(f"judged on {source}",))

    def _make_reference(self, context: GenerationContext, folder: Path) -> None:
        """Ask transformers."""
        from build_engines.generation.reference import make_reference
        from build_engines.generation.samples import answer_tokens, load_prompts, load_sequences

        longest = context.settled.max_length
        source, texts = load_sequences(context.recipe, context.tokenizer, longest)
        prompts = load_prompts(context.tokenizer, longest)
        stops = context.settled.facts.stop_ids
        made = make_reference(context.model, prompts, answer_tokens(longest), stops, texts)
        made.save(folder / "reference.npz")
        (folder / "source.json").write_text(json.dumps(source), encoding="utf-8")

    def _make(
        self, context: GenerationContext, candidate: GeneratorCandidate, reference: Path, folder: Path
    ) -> None:
        """Ask the graph, then the engine."""
        from build_engines.generation.answers import run_together
        from build_engines.generation.fidelity import Reference, compare_answers, read_texts
        from build_engines.generation.samples import answer_tokens
        from build_engines.generation.serving import loaded_engine, served_settings
        from python_backends.generator.openvino_genai import compute_properties
        from python_backends.threads import engine_threads

        expected = Reference.load(reference / "reference.npz")
        settings = served_settings(context, candidate)
        properties = compute_properties(settings, engine_threads(settings.threads))
        likelihood = read_texts(candidate.folder, properties, expected)
        with loaded_engine(context, candidate, _KV_TOKENS) as engine:
            answers = run_together(engine, expected.prompts, answer_tokens(context.settled.max_length))
        figures = {**likelihood.figures(), "answers": compare_answers(answers, expected).figures()}
        (folder / "fidelity.json").write_text(json.dumps(figures), encoding="utf-8")
