"""config.pbtxt, read back as Triton reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from build_engines.engines import CompiledEngine
from build_engines.repository.config import (
    cached_config,
    engine_config,
    ensemble_config,
    fused_config,
    to_pbtxt,
    tokenizer_config,
)
from build_engines.repository.names import ModelNames
from build_engines.spec import ModelSpec
from python_backends.settings import EncoderSettings, TokenizerSettings
from tritonforge.recipe import Precision, Recipe

EMBEDDING = ModelSpec("embedding", "mean", True, "softmax", "cls", (), 384, 48, 30522, 0)
CLASSIFIER = ModelSpec("classification", "mean", False, "softmax", "cls", ("ham", "spam"), 2, 48, 100, 3)


def read(config: Any) -> Any:
    return text_format.Parse(to_pbtxt(config), pb.ModelConfig())


def recipe_of(**keys: Any) -> Recipe:
    return Recipe.model_validate({"name": "toy", "model": "package:toy", **keys})


def configs(spec: ModelSpec = EMBEDDING, precision: Precision = "fp32", **keys: Any) -> tuple[Any, Any, Any]:
    """Tokenizer, engine and ensemble."""
    recipe = recipe_of(**keys)
    compiled = CompiledEngine("openvino", precision, "packed", Path(), "model.xml")
    return (
        read(tokenizer_config(recipe, spec)),
        read(engine_config(recipe, spec, compiled)),
        read(ensemble_config(recipe, spec, ModelNames.of("toy", "openvino"))),
    )


def test_one_model_may_do_both() -> None:
    recipe = recipe_of(stages="fused", threads={"engine": 2, "tokenizer": 1})
    names = ModelNames.of("toy", "openvino", fused=True)
    assert names.all == ("toy_engine", "toy")
    config = read(
        fused_config(recipe, EMBEDDING, CompiledEngine("openvino", "fp32", "packed", Path(), "m.xml"))
    )
    assert config.name == names.tokenizing == names.engine
    assert tensors(config.input) == [("text", pb.TYPE_STRING, [1])]
    ensemble = read(ensemble_config(recipe, EMBEDDING, names))
    assert tensors(ensemble.output) == tensors(config.output)
    (step,) = ensemble.ensemble_scheduling.step
    assert step.model_name == "toy_engine"
    assert dict(step.input_map) == {"text": "text"}
    view = backend_view(config)
    assert EncoderSettings.parse(view).threads == 2
    assert TokenizerSettings.parse(view).threads == 1


def backend_view(config: Any) -> dict[str, Any]:
    """As Triton hands it to a Python backend."""
    parameters = {key: {"string_value": value.string_value} for key, value in config.parameters.items()}
    groups = [{"count": group.count} for group in config.instance_group]
    return {"name": config.name, "parameters": parameters, "instance_group": groups}


def tensors(values: Any) -> list[tuple[str, int, list[int]]]:
    return [(value.name, value.data_type, list(value.dims)) for value in values]


def test_the_three_models_fit_together() -> None:
    tokenizer, engine, ensemble = configs()
    assert [each.name for each in (tokenizer, engine, ensemble)] == ["toy_tokenizer", "toy_engine", "toy"]
    assert tensors(ensemble.input) == tensors(tokenizer.input) == [("text", pb.TYPE_STRING, [1])]
    assert tensors(engine.input) == [("input_ids", pb.TYPE_INT32, [-1])]
    assert tensors(engine.output) == [("embedding", pb.TYPE_FP32, [384])]
    count = [("token_count", pb.TYPE_INT32, [1])]
    assert tensors(tokenizer.output) == tensors(engine.input) + count
    assert tensors(ensemble.output) == tensors(engine.output) + count
    tokenize, encode = ensemble.ensemble_scheduling.step
    assert (tokenize.model_name, encode.model_name) == ("toy_tokenizer", "toy_engine")
    assert tokenize.model_version == encode.model_version == -1
    assert tokenize.output_map["input_ids"] == encode.input_map["input_ids"]
    assert tokenize.output_map["token_count"] == "token_count"
    assert dict(encode.output_map) == {"embedding": "embedding"}
    assert (tokenizer.backend, engine.backend, ensemble.platform) == ("python", "python", "ensemble")


def test_a_classifier_has_labels() -> None:
    _, engine, ensemble = configs(CLASSIFIER)
    expected = [
        ("label", pb.TYPE_STRING, [1]),
        ("score", pb.TYPE_FP32, [1]),
        ("scores", pb.TYPE_FP32, [2]),
    ]
    for config in (engine, ensemble):
        assert tensors(config.output)[:3] == expected
        assert [output.label_filename for output in config.output][:3] == ["", "", "labels.txt"]
    assert dict(ensemble.ensemble_scheduling.step[1].output_map) == {
        name: name for name in ("label", "score", "scores")
    }


def test_requests_of_different_lengths_are_batched() -> None:
    _, engine, _ = configs()
    assert engine.input[0].allow_ragged_batch
    assert engine.HasField("dynamic_batching")


def test_the_backends_read_their_settings() -> None:
    tokenizer, engine, _ = configs(
        CLASSIFIER,
        threads={"tokenizer": 2, "engine": 3},
        instances={"engine": 4},
        batching={"token_budget": 999},
        limits={"max_text_bytes": 12345},
        precision="int8",
    )
    assert TokenizerSettings.parse(backend_view(tokenizer)) == TokenizerSettings(48, 12345, 2)
    assert EncoderSettings.parse(backend_view(engine)) == EncoderSettings(
        "openvino", "int8", "model.xml", "packed", "classification", 3, 999, 3, 4, 100, 48
    )


def test_batching_and_instances() -> None:
    tokenizer, engine, ensemble = configs(
        batching={"max_batch_size": 16, "max_queue_delay_us": 500, "preferred_batch_sizes": [4, 16]},
        instances={"tokenizer": 2, "engine": 3},
    )
    assert {each.max_batch_size for each in (tokenizer, engine, ensemble)} == {16}
    assert engine.dynamic_batching.max_queue_delay_microseconds == 500
    assert list(engine.dynamic_batching.preferred_batch_size) == [4, 16]
    # Waiting twice would double the latency.
    assert tokenizer.dynamic_batching.max_queue_delay_microseconds == 0
    assert [(group.kind, group.count) for group in tokenizer.instance_group] == [
        (pb.ModelInstanceGroup.KIND_CPU, 2)
    ]
    assert [(group.kind, group.count) for group in engine.instance_group] == [
        (pb.ModelInstanceGroup.KIND_CPU, 3)
    ]


def test_the_queue_may_be_without_bounds() -> None:
    _, engine, _ = configs(queue={"max_size": 0, "timeout_us": 0})
    assert not engine.dynamic_batching.HasField("default_queue_policy")
    assert engine.dynamic_batching.priority_levels == 0


@pytest.mark.parametrize(
    ("action", "expected"), [("reject", pb.ModelQueuePolicy.REJECT), ("delay", pb.ModelQueuePolicy.DELAY)]
)
def test_queue_policy(action: str, expected: int) -> None:
    queue = {"max_size": 100, "timeout_us": 2000, "timeout_action": action, "allow_timeout_override": False}
    for config in configs(queue=queue)[:2]:
        policy = config.dynamic_batching.default_queue_policy
        assert (policy.max_queue_size, policy.default_timeout_microseconds) == (100, 2000)
        assert policy.timeout_action == expected
        assert policy.allow_timeout_override is False


def test_priorities() -> None:
    for config in configs(queue={"priority_levels": 3, "default_priority": 2})[:2]:
        assert config.dynamic_batching.priority_levels == 3
        assert config.dynamic_batching.default_priority_level == 2


def test_answers_are_kept_by_an_ensemble_within_that_gives_all_outputs() -> None:
    recipe, names = recipe_of(cache={"enabled": True}), ModelNames.of("toy", "openvino", caches=True)
    outer = read(ensemble_config(recipe, CLASSIFIER, names))
    inner = read(cached_config(recipe, CLASSIFIER, names))
    assert [config.response_cache.enable for config in (*configs(), outer, inner)] == [False] * 4 + [True]
    (step,) = outer.ensemble_scheduling.step
    assert (step.model_name, dict(step.input_map)) == (inner.name, {"text": "text"})
    assert dict(step.output_map) == {name: name for name in ("label", "score", "scores", "token_count")}
    assert tensors(outer.output) == tensors(inner.output)
    uncached = configs(CLASSIFIER)[2]
    assert inner.ensemble_scheduling == uncached.ensemble_scheduling
    # What others are told is said once.
    assert outer.parameters == uncached.parameters
    assert not inner.parameters


def parameters(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


def test_the_ensemble_says_what_it_is_for() -> None:
    assert parameters(configs()[2]) == {"task": "embedding", "max_length": "48"}
    labels = ("ham", 'späm, "it\'s"\\')
    declared = parameters(configs(replace(CLASSIFIER, labels=labels))[2])
    assert (declared["task"], json.loads(declared["labels"])) == ("classification", list(labels))
    assert "cache_private" not in declared
    assert parameters(configs(cache={"private": True})[2])["cache_private"] == "true"


def test_warm_up_within_the_limits() -> None:
    tokenizer, engine, _ = configs(warmup={"lengths": [8, 32, 500]}, batching={"max_batch_size": 4})
    runs = [(each.batch_size, list(each.inputs["input_ids"].dims)) for each in engine.model_warmup]
    assert runs == [(1, [8]), (4, [8]), (1, [32]), (4, [32]), (1, [48]), (4, [48])]
    assert len({each.name for each in engine.model_warmup}) == len(runs)
    (sample,) = tokenizer.model_warmup
    assert sample.inputs["text"].input_data_file == "text"
    off = configs(warmup={"enabled": False})
    assert [len(config.model_warmup) for config in off] == [0, 0, 0]


def test_only_the_newest_version_is_loaded() -> None:
    for config in configs()[:2]:
        assert config.version_policy.latest.num_versions == 1
