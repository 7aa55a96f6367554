"""Configs of the TensorRT path: a plan on Triton's TensorRT backend, and the model that fans out to it.

What the backend demands is read from its source (``src/instance_state.cc``, ``src/model_state.cc``):

- ``allow_ragged_batch`` concatenates the requests' ids to one axis; ``batch_input`` fills in the other
  inputs, counted by *request*. So a request to the engine holds one text;
- the graph's first dimensions are tokens and texts + 1, yet ``max_batch_size`` means requests in a batch:
  the backend only compares it with the profiles' largest first dimensions;
- it runs profile 0 alone unless ``instance_group.profile`` lists more.
"""

from __future__ import annotations

from tritonclient.grpc import model_config_pb2 as pb

from build_engines.engines import CompiledEngine
from build_engines.engines.tensorrt.profiles import check_cuda_graphs, make_profiles, served_batch_size
from build_engines.repository.config import (
    TOKENS,
    ModelConfig,
    add_batching,
    add_outputs,
    python_model,
    set_parameters,
    warmup_lengths,
)
from build_engines.repository.names import ModelNames
from build_engines.spec import ModelSpec
from tritonforge.recipe import Recipe

_FANOUT_INSTANCES = 2  # one waits for the engine while the other splits and joins


def plan_config(recipe: Recipe, spec: ModelSpec, compiled: CompiledEngine) -> ModelConfig:
    """Config of the engine: a plan, one text a request.

    Raises:
        EngineError: CUDA graphs are asked for where no run repeats its shapes.
    """
    check_cuda_graphs(recipe, compiled.layout)
    config = pb.ModelConfig(
        name=ModelNames(recipe.name).engine,
        backend="tensorrt",
        platform="tensorrt_plan",
        max_batch_size=served_batch_size(recipe, spec),
        default_model_filename=compiled.model_file,
    )
    config.version_policy.latest.num_versions = 1
    profiles = make_profiles(recipe, spec, compiled.layout)
    config.instance_group.add(
        kind=pb.ModelInstanceGroup.KIND_GPU,
        count=recipe.instances.engine,
        profile=[str(number) for number in range(len(profiles))],
    )
    if len(profiles) > 1:
        # Memory for every profile at once; ON_PROFILE_CHANGE would allocate anew whenever they alternate.
        set_parameters(config, execution_context_allocation_strategy="STATIC")
    if compiled.layout == "packed":
        _add_packed_inputs(config)
    else:
        for name in (TOKENS, "attention_mask"):
            config.input.add(name=name, data_type=pb.TYPE_INT32, dims=[-1])
    config.output.add(name=spec.output_name, data_type=pb.TYPE_FP32, dims=[spec.width])
    add_batching(config, recipe, delay_us=recipe.batching.max_queue_delay_us)
    # Of sizes that a smaller batch cannot reach.
    preferred = [n for n in config.dynamic_batching.preferred_batch_size if n <= config.max_batch_size]
    config.dynamic_batching.preferred_batch_size[:] = preferred
    if recipe.warmup.enabled:
        _add_warmups(config, recipe, spec, compiled)
    if recipe.tensorrt.cuda_graphs:
        _add_cuda_graphs(config, recipe, spec)
    return config


def fanout_config(recipe: Recipe, spec: ModelSpec, compiled: CompiledEngine) -> ModelConfig:
    """Config of the model between tokenizer and engine: INT32 [b, n] to the task's outputs, b rows."""
    names = ModelNames(recipe.name)
    config = python_model(names.fanout, recipe, _FANOUT_INSTANCES)
    config.input.add(name=TOKENS, data_type=pb.TYPE_INT32, dims=[-1], allow_ragged_batch=True)
    add_outputs(config, spec)
    # Company is found in the engine's queue, not here.
    add_batching(config, recipe, delay_us=0)
    set_parameters(
        config,
        engine_model=names.engine,
        layout=compiled.layout,
        task=spec.task,
        width=spec.width,
        concurrency=2 * served_batch_size(recipe, spec),
        vocab_size=spec.vocab_size,
        max_length=spec.max_length,
    )
    # No warm-up: it would need the engine, and Triton loads the two in any order.
    return config


def _add_packed_inputs(config: ModelConfig) -> None:
    """The ragged ids, and what Triton derives from them."""
    config.input.add(name=TOKENS, data_type=pb.TYPE_INT32, dims=[-1], allow_ragged_batch=True)
    for kind, target in (
        (pb.BatchInput.BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO, "cu_seqlens"),
        (pb.BatchInput.BATCH_MAX_ELEMENT_COUNT_AS_SHAPE, "max_seqlen"),
    ):
        config.batch_input.add(
            kind=kind, target_name=[target], data_type=pb.TYPE_INT32, source_input=[TOKENS]
        )


def _add_warmups(config: ModelConfig, recipe: Recipe, spec: ModelSpec, compiled: CompiledEngine) -> None:
    """One text and a full batch of each length, and of the longest: every profile is met.

    Triton makes ``batch_size`` requests of one text each of a sample.
    """
    names = [TOKENS] if compiled.layout == "packed" else [TOKENS, "attention_mask"]
    for length in sorted({*warmup_lengths(recipe, spec), spec.max_length}):
        for size in sorted({1, config.max_batch_size}):
            sample = config.model_warmup.add(name=f"{size}x{length}", batch_size=size)
            for name in names:
                sample.inputs[name].CopyFrom(
                    pb.ModelWarmup.Input(data_type=pb.TYPE_INT32, dims=[length], zero_data=True)
                )


def _add_cuda_graphs(config: ModelConfig, recipe: Recipe, spec: ModelSpec) -> None:
    """A graph for each size and length that is warmed up; Triton takes one only on an exact match."""
    cuda = config.optimization.cuda
    cuda.graphs = True
    preferred = config.dynamic_batching.preferred_batch_size
    for size in sorted({1, *preferred, config.max_batch_size}):
        for length in warmup_lengths(recipe, spec):
            spec_ = cuda.graph_spec.add(batch_size=size)
            for name in (TOKENS, "attention_mask"):
                spec_.input[name].dim.append(length)
