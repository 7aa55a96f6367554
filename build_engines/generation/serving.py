"""An engine as it will be served: the same files side by side, and the same settings."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from google.protobuf import json_format

from build_engines.generation.context import GenerationContext, GeneratorCandidate
from build_engines.generation.repository import generator_config, link_files
from python_backends.generator.protocol import Generator
from python_backends.generator.settings import BLOCK, GeneratorSettings
from tritonforge.errors import EngineError


def served_settings(context: GenerationContext, candidate: GeneratorCandidate) -> GeneratorSettings:
    """What the backend will read from the configuration."""
    config = generator_config(context.recipe, context.settled, candidate)
    return GeneratorSettings.parse(json_format.MessageToDict(config, preserving_proto_field_name=True))


def open_engine(folder: Path, settings: GeneratorSettings, where: str, mend: str) -> Generator:
    """Load OpenVINO GenAI's engine from files side by side.

    Raises:
        EngineError: If it cannot be loaded.
    """
    from python_backends.generator.openvino_genai import OpenVinoGenerator, last_line

    try:
        return OpenVinoGenerator(folder, settings)
    except RuntimeError as error:
        raise EngineError(
            f"openvino-genai does not load the model: {last_line(error)}", where=where, mend=mend
        ) from error


@contextmanager
def loaded_engine(
    context: GenerationContext, candidate: GeneratorCandidate, kv_tokens: int
) -> Iterator[Generator]:
    """The engine of a candidate, with a KV cache of ``kv_tokens`` at most.

    Raises:
        EngineError: If it cannot be loaded.
    """
    settings = served_settings(context, candidate)
    settings = replace(
        settings, kv_cache_tokens=min(settings.kv_cache_tokens, -(-kv_tokens // BLOCK) * BLOCK)
    )
    with tempfile.TemporaryDirectory(prefix=".load-", dir=context.build_dir) as folder:
        link_files(candidate, context.tokenizer, Path(folder))
        engine = open_engine(
            Path(folder),
            settings,
            where=candidate.part,
            mend="it pages plain attention only: use another model, or engine tensorrt-llm",
        )
        try:
            yield engine
        finally:
            engine.close()
