"""config.pbtxt of the TensorRT path, read back as Triton reads it, field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from build_engines.engines import CompiledEngine
from build_engines.repository.config import cached_config, to_pbtxt, tokenizer_config
from build_engines.repository.names import ModelNames
from build_engines.repository.tensorrt_config import fanout_config, plan_config
from build_engines.spec import ModelSpec
from python_backends.settings import FanoutSettings
from tritonforge.errors import EngineError
from tritonforge.recipe import Recipe

EMBEDDING = ModelSpec("embedding", "mean", True, "softmax", "cls", (), 384, 256, 30522, 0)
CLASSIFIER = ModelSpec("classification", "mean", False, "softmax", "cls", ("ham", "spam"), 2, 48, 100, 3)


def recipe(**keys: Any) -> Recipe:
    return Recipe.model_validate({"name": "toy", "model": "package:toy", **keys})


def compiled(layout: str = "packed") -> CompiledEngine:
    return CompiledEngine("tensorrt", "fp16", layout, Path("nowhere"), "model.plan")


def read(config: Any) -> Any:
    return text_format.Parse(to_pbtxt(config), pb.ModelConfig())


def plan(spec: ModelSpec = EMBEDDING, layout: str = "packed", **keys: Any) -> Any:
    return read(plan_config(recipe(**keys), spec, compiled(layout)))


def fanout(spec: ModelSpec = EMBEDDING, layout: str = "packed", **keys: Any) -> Any:
    return read(fanout_config(recipe(**keys), spec, compiled(layout)))


def tensors(values: Any) -> list[tuple[str, int, list[int]]]:
    return [(value.name, value.data_type, list(value.dims)) for value in values]


def test_it_is_a_plan_on_a_gpu() -> None:
    config = plan(instances={"engine": 3})
    assert (config.name, config.backend, config.platform) == ("toy_engine", "tensorrt", "tensorrt_plan")
    assert config.default_model_filename == "model.plan"
    assert config.version_policy.latest.num_versions == 1
    (group,) = config.instance_group
    assert (group.kind, group.count) == (pb.ModelInstanceGroup.KIND_GPU, 3)
    assert not group.gpus  # all that are visible


def test_ids_are_ragged_and_triton_derives_the_rest() -> None:
    config = plan()
    assert tensors(config.input) == [("input_ids", pb.TYPE_INT32, [-1])]
    assert config.input[0].allow_ragged_batch
    derived = [
        (entry.kind, list(entry.target_name), entry.data_type, list(entry.source_input))
        for entry in config.batch_input
    ]
    kinds = pb.BatchInput
    assert derived == [
        (kinds.BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO, ["cu_seqlens"], pb.TYPE_INT32, ["input_ids"]),
        (kinds.BATCH_MAX_ELEMENT_COUNT_AS_SHAPE, ["max_seqlen"], pb.TYPE_INT32, ["input_ids"]),
    ]


@pytest.mark.parametrize(
    ("spec", "output"),
    [(EMBEDDING, ("embedding", pb.TYPE_FP32, [384])), (CLASSIFIER, ("scores", pb.TYPE_FP32, [2]))],
)
def test_the_plan_gives_the_graphs_one_output(spec: ModelSpec, output: Any) -> None:
    config = plan(spec)
    assert tensors(config.output) == [output]
    assert not config.output[0].label_filename


@pytest.mark.parametrize(
    ("asked", "max_tokens", "served"),
    [
        (64, "auto", 64),
        (512, "auto", 256),  # 65,536 tokens over 256 a text
        (64, 4096, 16),
        (64, 256, 1),
        (8, 100_000, 8),
    ],
)
def test_no_batch_that_triton_forms_exceeds_the_profile(asked: int, max_tokens: Any, served: int) -> None:
    keys = {"batching": {"max_batch_size": asked}, "tensorrt": {"max_tokens": max_tokens}}
    assert plan(**keys).max_batch_size == served
    # Clients may still send as many as the recipe says: the fan-out has no such limit.
    assert fanout(**keys).max_batch_size == asked


def test_profiles_are_listed_since_triton_uses_only_the_first_otherwise() -> None:
    assert list(plan().instance_group[0].profile) == ["0"]
    latency = plan(tensorrt={"preset": "latency"})
    assert list(latency.instance_group[0].profile) == ["0", "1"]
    strategy = "execution_context_allocation_strategy"
    assert latency.parameters[strategy].string_value == "STATIC"
    assert strategy not in plan().parameters


def test_every_profile_is_warmed_up() -> None:
    config = plan(tensorrt={"preset": "latency"}, warmup={"lengths": [8]}, batching={"max_batch_size": 4})
    runs = {(each.batch_size, *each.inputs["input_ids"].dims) for each in config.model_warmup}
    assert runs == {(1, 8), (4, 8), (1, 256), (4, 256)}
    tokens = sorted(size * length for size, length in runs)
    assert tokens[0] <= 256 < tokens[-1] == 4 * 256  # the first profile ends at 256 tokens
    assert all(each.inputs["input_ids"].zero_data for each in config.model_warmup)
    assert len({each.name for each in config.model_warmup}) == len(runs)
    assert not plan(warmup={"enabled": False}).model_warmup


def test_queue_policy_and_priorities() -> None:
    queue = {"max_size": 100, "timeout_us": 2000, "priority_levels": 3, "default_priority": 2}
    for config in (plan(queue=queue), fanout(queue=queue)):
        policy = config.dynamic_batching.default_queue_policy
        assert (policy.max_queue_size, policy.default_timeout_microseconds) == (100, 2000)
        assert config.dynamic_batching.priority_levels == 3
        assert config.dynamic_batching.default_priority_level == 2


def test_only_the_engine_waits_for_company() -> None:
    batching = {"max_batch_size": 64, "max_queue_delay_us": 500, "preferred_batch_sizes": [8, 16, 64]}
    keys = {"batching": batching, "tensorrt": {"max_tokens": 4096}}
    assert plan(**keys).dynamic_batching.max_queue_delay_microseconds == 500
    # Triton refuses a preferred size beyond the maximum, which is 16 here.
    assert list(plan(**keys).dynamic_batching.preferred_batch_size) == [8, 16]
    assert fanout(**keys).HasField("dynamic_batching")
    assert fanout(**keys).dynamic_batching.max_queue_delay_microseconds == 0


def test_cuda_graphs_where_shapes_repeat() -> None:
    with pytest.raises(EngineError, match="packed runs differ") as error:
        plan(tensorrt={"cuda_graphs": True})
    assert error.value.where == "tensorrt.cuda_graphs"
    config = plan(
        layout="padded",
        tensorrt={"cuda_graphs": True},
        warmup={"lengths": [8, 64]},
        batching={"max_batch_size": 16},
    )
    assert config.optimization.cuda.graphs
    specs = [
        (each.batch_size, {name: list(shape.dim) for name, shape in each.input.items()})
        for each in config.optimization.cuda.graph_spec
    ]
    assert specs == [
        (size, {"input_ids": [length], "attention_mask": [length]}) for size in (1, 16) for length in (8, 64)
    ]
    assert not plan().optimization.cuda.graphs


def test_a_padded_plan_batches_texts_of_equal_length() -> None:
    config = plan(layout="padded")
    shape = ("input_ids", pb.TYPE_INT32, [-1]), ("attention_mask", pb.TYPE_INT32, [-1])
    assert tensors(config.input) == list(shape)
    assert not any(each.allow_ragged_batch for each in config.input)
    assert not config.batch_input
    assert {name for each in config.model_warmup for name in each.inputs} == {"input_ids", "attention_mask"}


def test_the_fan_out_answers_as_a_cpu_engine_does() -> None:
    config = fanout(CLASSIFIER, batching={"max_batch_size": 8})
    assert (config.name, config.backend) == ("toy_fanout", "python")
    assert tensors(config.input) == [("input_ids", pb.TYPE_INT32, [-1])]
    assert config.input[0].allow_ragged_batch
    assert tensors(config.output) == [
        ("label", pb.TYPE_STRING, [1]),
        ("score", pb.TYPE_FP32, [1]),
        ("scores", pb.TYPE_FP32, [2]),
    ]
    assert [each.label_filename for each in config.output] == ["", "", "labels.txt"]
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU
    assert not config.model_transaction_policy.decoupled
    assert not config.model_warmup  # Triton loads it and the engine in any order
    view = {
        "name": config.name,
        "parameters": {key: {"string_value": value.string_value} for key, value in config.parameters.items()},
    }
    assert FanoutSettings.parse(view) == FanoutSettings(
        "toy_engine", "packed", "classification", 2, 16, vocab_size=100, max_length=48
    )


def test_the_ensemble_goes_through_the_fan_out() -> None:
    names = ModelNames.of("toy", "tensorrt", caches=True)
    keys: dict[str, Any] = {"cache": {"enabled": True}}
    ensemble = read(cached_config(recipe(**keys), CLASSIFIER, names))
    tokenize, answer = ensemble.ensemble_scheduling.step
    assert (tokenize.model_name, answer.model_name) == ("toy_tokenizer", "toy_fanout")
    assert tokenize.output_map["input_ids"] == answer.input_map["input_ids"]
    assert dict(answer.output_map) == {name: name for name in ("label", "score", "scores")}
    assert ensemble.response_cache.enable
    parts = (
        read(tokenizer_config(recipe(**keys), CLASSIFIER)),
        fanout(CLASSIFIER, **keys),
        plan(CLASSIFIER, **keys),
    )
    assert not any(part.response_cache.enable for part in parts)
    # Triton refuses an ensemble with a step that takes smaller batches than itself.
    assert parts[1].max_batch_size >= ensemble.max_batch_size


def test_names() -> None:
    assert ModelNames.of("toy", "openvino").all == ("toy_tokenizer", "toy_engine", "toy")
    assert ModelNames.of("toy", "tensorrt").all == ("toy_tokenizer", "toy_engine", "toy_fanout", "toy")
    cached = ModelNames.of("toy", "tensorrt", caches=True).all
    assert cached == ("toy_tokenizer", "toy_engine", "toy_fanout", "toy_cached", "toy")
    assert set(ModelNames("toy").possible) == set(cached)
