"""Writes the model folder of a generator: config, version folder, manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from build_engines.generation.context import GeneratorCandidate
from build_engines.generation.spec import GeneratorSpec
from build_engines.generation.steps.compress import served_files
from build_engines.repository.assemble import begin_model, link_or_copy, write_backend
from build_engines.repository.config import ModelConfig, declare_task, set_parameters
from tritonforge.recipe import Recipe

# Names, types and sizes as in Triton's vLLM backend, and as aliases those of the TensorRT-LLM backend.
INPUTS: Mapping[str, tuple[int, int]] = {
    "text_input": (pb.TYPE_STRING, 1),
    "messages": (pb.TYPE_STRING, 1),
    "max_tokens": (pb.TYPE_INT32, 1),
    "min_tokens": (pb.TYPE_INT32, 1),
    "temperature": (pb.TYPE_FP32, 1),
    "top_p": (pb.TYPE_FP32, 1),
    "top_k": (pb.TYPE_INT32, 1),
    "seed": (pb.TYPE_UINT64, 1),
    "stop": (pb.TYPE_STRING, -1),
    "repetition_penalty": (pb.TYPE_FP32, 1),
    "presence_penalty": (pb.TYPE_FP32, 1),
    "frequency_penalty": (pb.TYPE_FP32, 1),
    "ignore_eos": (pb.TYPE_BOOL, 1),
    "stream": (pb.TYPE_BOOL, 1),
    "return_log_probs": (pb.TYPE_BOOL, 1),
    "json_schema": (pb.TYPE_STRING, 1),
    "adapter": (pb.TYPE_STRING, 1),
    "sampling_parameters": (pb.TYPE_STRING, 1),
    "exclude_input_in_output": (pb.TYPE_BOOL, 1),
    "stop_words": (pb.TYPE_STRING, -1),
    "random_seed": (pb.TYPE_UINT64, 1),
    "min_length": (pb.TYPE_INT32, 1),
}
OUTPUTS: Mapping[str, tuple[int, int]] = {
    "text_output": (pb.TYPE_STRING, 1),
    "token_ids": (pb.TYPE_INT32, -1),
    "log_probs": (pb.TYPE_FP32, -1),
    "finish_reason": (pb.TYPE_STRING, 1),
    "prompt_tokens": (pb.TYPE_INT32, 1),
    "completion_tokens": (pb.TYPE_INT32, 1),
}


def assemble_generator(
    recipe: Recipe,
    spec: GeneratorSpec,
    candidate: GeneratorCandidate,
    tokenizer: Path,
    staging: Path,
    version: int,
    key: str,
    facts: Mapping[str, Any],
) -> None:
    """Write everything that Triton loads.

    Args:
        recipe: Generation, queue, threads, limits.
        spec: Lengths, size of the KV cache.
        candidate: The weights to serve.
        tokenizer: Folder of the tokenizer and the configs.
        staging: Empty folder; gets the model's folder.
        version: Name of the version folder.
        key: Content key of this build, for the manifest.
        facts: What was built from what, for the manifest.

    Raises:
        OSError: If the disk is full.
    """
    manifest = {
        "recipe": recipe.name,
        "key": key,
        "version": version,
        "models": [recipe.name],
        "build": facts,
    }
    folder = begin_model(staging, generator_config(recipe, spec, candidate), manifest)
    link_files(candidate, tokenizer, folder)
    write_backend(folder, "generator")


def link_files(candidate: GeneratorCandidate, tokenizer: Path, folder: Path) -> None:
    """Put weights, tokenizer and configs side by side, as the engines want them."""
    for path in (*served_files(candidate.folder), *tokenizer.iterdir()):
        link_or_copy(path, folder / path.name)


def generator_config(recipe: Recipe, spec: GeneratorSpec, candidate: GeneratorCandidate) -> ModelConfig:
    """Config of the one model: decoupled, a request a sequence, one instance that batches them all."""
    config = pb.ModelConfig(name=recipe.name, backend="python", max_batch_size=0)
    config.version_policy.latest.num_versions = 1
    config.model_transaction_policy.decoupled = True
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    for name, (data_type, size) in INPUTS.items():
        config.input.add(name=name, data_type=data_type, dims=[size], optional=True)
    for name, (data_type, size) in OUTPUTS.items():
        config.output.add(name=name, data_type=data_type, dims=[size])
    declare_task(config, recipe, "generation")
    generation, queue = recipe.generation, recipe.queue
    set_parameters(
        config,
        engine=candidate.engine,
        precision=candidate.precision,
        compute=generation.compute,
        kv_cache_precision=spec.kv_precision,
        kv_cache_tokens=spec.kv_cache_tokens,
        max_num_seqs=generation.max_num_seqs,
        max_num_batched_tokens=generation.max_num_batched_tokens,
        max_length=spec.max_length,
        max_tokens=spec.max_tokens,
        prefix_caching=_flag(generation.prefix_caching),
        prompt_lookup_tokens=generation.prompt_lookup_tokens,
        threads=recipe.threads.engine,
        queue_max_size=queue.max_size,
        queue_timeout_us=queue.timeout_us,
        queue_timeout_action=queue.timeout_action,
        allow_timeout_override=_flag(queue.allow_timeout_override),
        max_text_bytes=recipe.limits.max_text_bytes,
        stop_token_ids=",".join(map(str, spec.facts.stop_ids)),
        add_special_tokens=_flag(True),
        tensor_parallel=generation.tensor_parallel,
    )
    return config


def _flag(value: bool) -> str:
    """As the backends read it."""
    return "true" if value else "false"
