"""Writes ``config.pbtxt`` through Triton's own protobuf definition, never by string templates.

Fields: ``model_config.proto`` of triton-inference-server/common.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from build_engines.engines import CompiledEngine
from build_engines.repository.names import ModelNames
from build_engines.spec import ModelSpec
from tritonforge.recipe import Recipe, ServedTask

ModelConfig = Any  # pb.ModelConfig; tritonclient publishes no types
LABELS_FILE = "labels.txt"
WARMUP_TEXT_FILE = "text"  # in the model's folder "warmup"
TEXT, TOKENS, TOKEN_COUNT = "text", "input_ids", "token_count"


def ensemble_config(recipe: Recipe, spec: ModelSpec, names: ModelNames) -> ModelConfig:
    """Config of the ensemble: text in, vectors or labels out."""
    config = _ensemble(names.ensemble, recipe, spec)
    if names.caches:
        step = config.ensemble_scheduling.step.add(model_name=names.cached, model_version=-1)
        step.input_map[TEXT] = TEXT
        for output in config.output:
            step.output_map[output.name] = output.name
    else:
        _add_steps(config, names)
    declare_task(config, recipe, spec.task)
    set_parameters(config, max_length=spec.max_length)
    if spec.labels:
        set_parameters(config, labels=json.dumps(spec.labels, ensure_ascii=False))
    return config


def cached_config(recipe: Recipe, spec: ModelSpec, names: ModelNames) -> ModelConfig:
    """Config of an ensemble within the ensemble, whose answers Triton keeps.

    Triton looks an answer up by the inputs alone (core's ``cache_manager.cc``), so a request would get the
    outputs that an earlier one had asked for. An outer ensemble asks an inner one for all of them, always.
    """
    config = _ensemble(names.cached, recipe, spec)
    _add_steps(config, names)
    config.response_cache.enable = True
    return config


def _ensemble(name: str, recipe: Recipe, spec: ModelSpec) -> ModelConfig:
    """An ensemble of no steps yet."""
    config = pb.ModelConfig(name=name, platform="ensemble", max_batch_size=recipe.batching.max_batch_size)
    config.input.add(name=TEXT, data_type=pb.TYPE_STRING, dims=[1])
    add_outputs(config, spec)
    _add_token_count(config)
    return config


def _add_steps(config: ModelConfig, names: ModelNames) -> None:
    """Text to tokens, tokens to the task's outputs."""
    steps = config.ensemble_scheduling.step
    if names.fused:
        both = steps.add(model_name=names.engine, model_version=-1)
        both.input_map[TEXT] = TEXT
        for output in config.output:
            both.output_map[output.name] = output.name
        return
    tokenize = steps.add(model_name=names.tokenizer, model_version=-1)
    tokenize.input_map[TEXT] = TEXT
    tokenize.output_map[TOKENS] = TOKENS
    tokenize.output_map[TOKEN_COUNT] = TOKEN_COUNT
    encode = steps.add(model_name=names.fanout if names.fans_out else names.engine, model_version=-1)
    encode.input_map[TOKENS] = TOKENS
    for output in config.output:
        if output.name != TOKEN_COUNT:
            encode.output_map[output.name] = output.name


def tokenizer_config(recipe: Recipe, spec: ModelSpec) -> ModelConfig:
    """Config of the tokenizer: STRING [b, 1] to ragged INT32 [b, n]."""
    config = python_model(ModelNames(recipe.name).tokenizer, recipe, recipe.instances.tokenizer)
    config.input.add(name=TEXT, data_type=pb.TYPE_STRING, dims=[1])
    config.output.add(name=TOKENS, data_type=pb.TYPE_INT32, dims=[-1])
    _add_token_count(config)
    # Waiting for company is the engine's business; here it would only add to the latency.
    add_batching(config, recipe, delay_us=0)
    set_parameters(
        config,
        max_length=spec.max_length,
        max_text_bytes=recipe.limits.max_text_bytes,
        threads=recipe.threads.tokenizer,
    )
    if recipe.warmup.enabled:
        _add_text_warmup(config)
    return config


def fused_config(recipe: Recipe, spec: ModelSpec, compiled: CompiledEngine) -> ModelConfig:
    """Config of tokenizer and engine in one model: STRING [b, 1] to the task's outputs."""
    config = python_model(ModelNames(recipe.name).engine, recipe, recipe.instances.engine)
    config.input.add(name=TEXT, data_type=pb.TYPE_STRING, dims=[1])
    add_outputs(config, spec)
    _add_token_count(config)
    add_batching(config, recipe, delay_us=recipe.batching.max_queue_delay_us)
    _set_engine_parameters(config, recipe, spec, compiled)
    set_parameters(
        config, max_text_bytes=recipe.limits.max_text_bytes, tokenizer_threads=recipe.threads.tokenizer
    )
    if recipe.warmup.enabled:
        _add_text_warmup(config)
    return config


def engine_config(recipe: Recipe, spec: ModelSpec, compiled: CompiledEngine) -> ModelConfig:
    """Config of the engine: ragged token ids, so that requests of different lengths are batched."""
    config = python_model(ModelNames(recipe.name).engine, recipe, recipe.instances.engine)
    config.input.add(name=TOKENS, data_type=pb.TYPE_INT32, dims=[-1], allow_ragged_batch=True)
    add_outputs(config, spec)
    add_batching(config, recipe, delay_us=recipe.batching.max_queue_delay_us)
    _set_engine_parameters(config, recipe, spec, compiled)
    if recipe.warmup.enabled:
        add_warmups(config, warmup_lengths(recipe, spec))
    return config


def _set_engine_parameters(
    config: ModelConfig, recipe: Recipe, spec: ModelSpec, compiled: CompiledEngine
) -> None:
    """What the backend needs to load the engine and to plan its runs."""
    set_parameters(
        config,
        engine=compiled.engine,
        precision=compiled.precision,
        float_part=compiled.float_part,
        model_file=compiled.model_file,
        layout=compiled.layout,
        task=spec.task,
        threads=recipe.threads.engine,
        token_budget=recipe.batching.token_budget,
        pad_token_id=spec.pad_token_id,
        vocab_size=spec.vocab_size,
        max_length=spec.max_length,
    )


def _add_text_warmup(config: ModelConfig) -> None:
    """One text, from a file: zero_data is the empty text, and without special tokens no token, an error."""
    sample = config.model_warmup.add(name="text", batch_size=1)
    sample.inputs[TEXT].CopyFrom(
        pb.ModelWarmup.Input(data_type=pb.TYPE_STRING, dims=[1], input_data_file=WARMUP_TEXT_FILE)
    )


def declare_task(config: ModelConfig, recipe: Recipe, task: ServedTask) -> None:
    """Tell those who serve the model to others, such as the gateway, what it is for."""
    set_parameters(config, task=task)
    if recipe.cache.private:
        set_parameters(config, cache_private="true")


def to_pbtxt(config: ModelConfig) -> str:
    """The text form that Triton reads."""
    return str(text_format.MessageToString(config))


def python_model(name: str, recipe: Recipe, count: int) -> ModelConfig:
    """A model of the Python backend on the CPU; only the newest version is loaded."""
    config = pb.ModelConfig(name=name, backend="python", max_batch_size=recipe.batching.max_batch_size)
    config.version_policy.latest.num_versions = 1
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=count)
    return config


def add_outputs(config: ModelConfig, spec: ModelSpec) -> None:
    """Declare the task's outputs."""
    if spec.task == "embedding":
        config.output.add(name="embedding", data_type=pb.TYPE_FP32, dims=[spec.width])
    else:
        config.output.add(name="label", data_type=pb.TYPE_STRING, dims=[1])
        config.output.add(name="score", data_type=pb.TYPE_FP32, dims=[1])
        config.output.add(
            name="scores", data_type=pb.TYPE_FP32, dims=[spec.width], label_filename=LABELS_FILE
        )


def _add_token_count(config: ModelConfig) -> None:
    """Tokens of each text as the model reads it: cut at its longest, special tokens included."""
    config.output.add(name=TOKEN_COUNT, data_type=pb.TYPE_INT32, dims=[1])


def add_batching(config: ModelConfig, recipe: Recipe, delay_us: int) -> None:
    """Dynamic batching with the recipe's queue policy and priorities."""
    batching, queue = config.dynamic_batching, recipe.queue
    batching.SetInParent()
    batching.max_queue_delay_microseconds = delay_us
    if delay_us:
        batching.preferred_batch_size.extend(recipe.batching.preferred_batch_sizes)
    if queue.priority_levels:
        batching.priority_levels = queue.priority_levels
        batching.default_priority_level = queue.default_priority
    if queue.max_size or queue.timeout_us:
        policy = batching.default_queue_policy
        policy.max_queue_size = queue.max_size
        policy.default_timeout_microseconds = queue.timeout_us
        policy.allow_timeout_override = queue.allow_timeout_override
        policy.timeout_action = (
            pb.ModelQueuePolicy.DELAY if queue.timeout_action == "delay" else pb.ModelQueuePolicy.REJECT
        )


def warmup_lengths(recipe: Recipe, spec: ModelSpec) -> list[int]:
    """Lengths of the warm-up requests in tokens, ascending."""
    return sorted({min(length, spec.max_length) for length in recipe.warmup.lengths})


def add_warmups(config: ModelConfig, lengths: Iterable[int]) -> None:
    """One request and a full batch of each length, so that the first user does not pay for memory."""
    for length in lengths:
        for batch_size in sorted({1, min(8, config.max_batch_size)}):
            sample = config.model_warmup.add(name=f"{batch_size}x{length}", batch_size=batch_size)
            sample.inputs[TOKENS].CopyFrom(
                pb.ModelWarmup.Input(data_type=pb.TYPE_INT32, dims=[length], zero_data=True)
            )


def set_parameters(config: ModelConfig, **values: Any) -> None:
    """Backend settings; Triton carries strings only."""
    parameters: Mapping[str, Any] = config.parameters
    for key, value in values.items():
        parameters[key].string_value = str(value)
