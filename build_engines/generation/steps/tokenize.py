"""Step 3: the tokenizer and the configs, as they are served."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import build_engines
from build_engines.context import StepOutcome
from build_engines.generation.context import GenerationContext
from build_engines.versions import package_versions, source_hash


class TokenizeStep:
    """Writes ``tokenizer.json`` with its configs, and for OpenVINO GenAI the tokenizer as a graph."""

    name = "tokenize"

    def run(self, context: GenerationContext) -> StepOutcome:
        """Write, or reuse."""
        for_openvino = context.engine == "openvino-genai"
        stops = context.settled.facts.stop_ids
        folder, reused = context.artifact(
            self.name,
            partial(self._make, context, for_openvino),
            files=context.model.hashes,
            stops=stops,
            for_openvino=for_openvino,
            versions=package_versions(("tokenizers", "transformers", "openvino-tokenizers", "openvino")),
            code=source_hash(build_engines.__file__, "generation/tokenizer.py", "repository/tokenizer.py"),
        )
        context.tokenizer_folder = folder
        notes = []
        if not stops:
            notes.append("no end-of-sequence token is named: answers end at max_tokens or a stop string")
        if not context.settled.facts.chat_template:
            notes.append("there is no chat template: `messages` are refused, `text_input` is served")
        files = sorted(path.name for path in folder.iterdir())
        return StepOutcome(reused=reused, figures={"files": files}, notes=tuple(notes))

    def _make(self, context: GenerationContext, for_openvino: bool, folder: Path) -> None:
        """Fill an empty folder."""
        from build_engines.generation.tokenizer import convert_for_openvino, write_served_tokenizer

        tokenizer = write_served_tokenizer(context.model, context.settled.facts, folder)
        if for_openvino:
            convert_for_openvino(tokenizer, folder)
        config = context.model.read_json("config.json")
        (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        generation = context.model.read_json("generation_config.json") or {}
        generation["eos_token_id"] = context.settled.facts.stop_ids
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=2), encoding="utf-8")
