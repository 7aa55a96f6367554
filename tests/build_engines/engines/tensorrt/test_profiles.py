from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_engines.engines.tensorrt.profiles import (
    AUTO_TOKENS,
    check_cuda_graphs,
    largest_batch_tokens,
    make_profiles,
    served_batch_size,
)
from build_engines.engines.tensorrt.runner import choose_profile
from build_engines.spec import ModelSpec
from tritonforge.errors import EngineError
from tritonforge.recipe import Layout, Recipe


def spec(max_length: int) -> ModelSpec:
    return ModelSpec("embedding", "mean", True, "softmax", "cls", (), 8, max_length, 100, 0)


def recipe(batch: int = 64, **tensorrt: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "toy", "model": "toy", "batching": {"max_batch_size": batch}, "tensorrt": tensorrt}
    )


recipes = st.builds(
    recipe,
    batch=st.integers(1, 300),
    preset=st.sampled_from(["latency", "throughput"]),
    max_tokens=st.one_of(st.just("auto"), st.integers(8192, 100_000)),
)


@given(recipes, st.integers(1, 8192), st.sampled_from(["packed", "padded"]))
def test_shapes_ascend_and_triton_s_check_of_the_batch_size_passes(
    given_recipe: Recipe, longest: int, layout: Layout
) -> None:
    profiles = make_profiles(given_recipe, spec(longest), layout)
    for profile in profiles:
        for shapes in profile.values():
            for least, opt, most in zip(*shapes, strict=True):
                assert 1 <= least <= opt <= most
    # Auto-completion: the largest, over the profiles, of the smallest first dimension of all inputs.
    admitted = max(min(shapes.max[0] for shapes in profile.values()) for profile in profiles)
    assert admitted >= served_batch_size(given_recipe, spec(longest)) >= 1


@given(recipes, st.integers(1, 512), st.data())
def test_every_batch_that_triton_may_form_fits_one_profile(
    given_recipe: Recipe, longest: int, data: st.DataObject
) -> None:
    """Triton picks by the tokens alone; the profile must then take whatever else the batch brings."""
    profiles = make_profiles(given_recipe, spec(longest), "packed")
    texts = data.draw(st.integers(1, served_batch_size(given_recipe, spec(longest))))
    lengths = [data.draw(st.integers(1, longest)) for _ in range(min(texts, 5))]
    lengths += [lengths[-1]] * (texts - len(lengths))
    tokens = sum(lengths)
    by_tokens = [p for p in profiles if p["input_ids"].min[0] <= tokens <= p["input_ids"].max[0]]
    assert len(by_tokens) == 1
    shapes = {"input_ids": (tokens,), "cu_seqlens": (texts + 1,), "max_seqlen": (max(lengths),)}
    assert profiles[choose_profile(profiles, shapes)] is by_tokens[0]


def test_throughput_is_tuned_for_full_batches_of_the_mix() -> None:
    (profile,) = make_profiles(recipe(), spec(256), "packed")
    mean = 0.3 * 8 + 0.4 * 24 + 0.2 * 64 + 0.1 * 192
    assert profile["input_ids"] == ((1,), (round(64 * mean),), (64 * 256,))
    assert profile["cu_seqlens"] == ((2,), (65,), (65,))
    assert profile["max_seqlen"] == ((1,), (192,), (256,))


def test_latency_is_tuned_for_a_text_alone_first() -> None:
    alone, full = make_profiles(recipe(preset="latency"), spec(256), "packed")
    assert alone["input_ids"] == ((1,), (44,), (256,))
    assert alone["cu_seqlens"].opt == (2,)
    assert full["input_ids"].min == (257,)
    assert full["cu_seqlens"].min == (3,)
    assert len(make_profiles(recipe(batch=1, preset="latency"), spec(256), "packed")) == 1


def test_padded_profiles_divide_by_the_number_of_texts() -> None:
    alone, full = make_profiles(recipe(preset="latency"), spec(256), "padded")
    assert alone["input_ids"] == alone["attention_mask"] == ((1, 1), (1, 44), (1, 256))
    assert full["input_ids"] == ((2, 1), (64, 192), (64, 256))


def test_a_batch_is_limited_by_tokens() -> None:
    assert largest_batch_tokens(recipe(), spec(256)) == 64 * 256
    assert largest_batch_tokens(recipe(), spec(8192)) == AUTO_TOKENS
    assert served_batch_size(recipe(), spec(8192)) == 8
    assert served_batch_size(recipe(max_tokens=1000), spec(256)) == 3
    with pytest.raises(EngineError, match="100 tokens in a run, and one text may have 256") as error:
        largest_batch_tokens(recipe(max_tokens=100), spec(256))
    assert error.value.where == "tensorrt.max_tokens"


def test_cuda_graphs_need_shapes_that_repeat() -> None:
    check_cuda_graphs(recipe(cuda_graphs=True), "padded")
    check_cuda_graphs(recipe(), "packed")
    with pytest.raises(EngineError, match="packed runs differ"):
        check_cuda_graphs(recipe(cuda_graphs=True), "packed")


def test_no_profile_takes_it() -> None:
    profiles = make_profiles(recipe(preset="latency"), spec(256), "packed")
    shapes = {"input_ids": (300,), "cu_seqlens": (2,), "max_seqlen": (300,)}
    with pytest.raises(EngineError, match="no optimization profile takes"):
        choose_profile(profiles, shapes)
