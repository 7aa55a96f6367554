"""Which settings are searched, and what they make of a recipe."""

from __future__ import annotations

import pytest

from loadtest.tune.space import (
    Parameter,
    apply,
    changes,
    narrowed,
    own_settings,
    search_space,
    signature,
)
from tritonforge.errors import RecipeError, UsageError
from tritonforge.recipe import Recipe


def recipe(**keys: object) -> Recipe:
    return Recipe.model_validate({"name": "m", "model": "x", **keys})


def values(space: tuple[Parameter, ...]) -> dict[str, tuple[object, ...]]:
    return {parameter.key: parameter.values for parameter in space}


def test_the_recipes_own_values_are_always_among_those_to_try() -> None:
    odd = recipe(
        batching={"max_queue_delay_us": 123, "preferred_batch_sizes": [3, 7], "token_budget": 999},
        instances={"engine": 5},
        threads={"engine": 3, "tokenizer": 9},
    )
    space = search_space(odd, engine="openvino", cores=4)
    for key, own in own_settings(odd, space).items():
        assert own in values(space)[key]


def test_no_request_that_clients_may_send_today_is_refused_tomorrow() -> None:
    space = search_space(recipe(batching={"max_batch_size": 32}), engine="openvino", cores=2)
    assert min(values(space)["batching.max_batch_size"]) == 32
    space = search_space(recipe(batching={"max_batch_size": 32}), engine="openvino", cores=2, client_batch=10)
    assert min(values(space)["batching.max_batch_size"]) == 16


def test_nobody_waits_for_company_longer_than_half_the_slo() -> None:
    space = search_space(recipe(), engine="openvino", cores=2, slo_ms=2.5)
    assert max(values(space)["batching.max_queue_delay_us"]) == 1000


def test_no_more_engines_than_the_memory_holds() -> None:
    space = search_space(recipe(), engine="openvino", cores=8, most_instances=3)
    assert values(space)["instances.engine"] == (1, 2, 3)
    assert values(search_space(recipe(), engine="openvino", cores=8, most_instances=0))[
        "instances.engine"
    ] == (1,)


def test_what_a_plan_has_built_in_is_not_searched() -> None:
    keys = values(search_space(recipe(), engine="tensorrt", cores=2))
    assert "instances.engine" in keys
    assert not {"batching.max_batch_size", "batching.token_budget", "threads.engine", "stages"} & set(keys)


def test_a_generator_has_knobs_of_its_own_and_none_that_changes_answers() -> None:
    space = search_space(recipe(task="generation"), engine="openvino-genai", cores=2)
    assert set(values(space)) == {
        "generation.max_num_seqs",
        "generation.max_num_batched_tokens",
        "threads.engine",
    }


def test_settings_become_a_recipe_and_what_differs_is_told() -> None:
    base = recipe()
    space = search_space(base, engine="openvino", cores=2)
    new = apply(base, {"batching.max_queue_delay_us": 500, "batching.preferred_batch_sizes": (8, 16)})
    assert new.batching.preferred_batch_sizes == [8, 16]
    assert changes(base, new, space) == {
        "batching.max_queue_delay_us": 500,
        "batching.preferred_batch_sizes": (8, 16),
    }


def test_preferred_sizes_that_the_build_would_not_write_make_no_other_recipe() -> None:
    base = recipe()
    assert apply(base, {"batching.max_queue_delay_us": 0, "batching.preferred_batch_sizes": (8,)}) == base
    fitting = apply(
        base,
        {
            "batching.max_queue_delay_us": 500,
            "batching.max_batch_size": 16,
            "batching.preferred_batch_sizes": (8, 32),
        },
    )
    assert fitting.batching.preferred_batch_sizes == [8]


def test_tokenizers_that_the_build_would_not_write_make_no_other_recipe() -> None:
    fused = apply(recipe(), {"stages": "fused", "instances.tokenizer": 2})
    assert fused == apply(recipe(), {"stages": "fused"})
    assert fused.stages == "fused"


def test_settings_that_a_recipe_cannot_have_are_an_error() -> None:
    with pytest.raises(RecipeError, match="greater than"):
        apply(recipe(), {"instances.engine": 0})


def test_threads_left_open_are_the_share_that_they_come_to() -> None:
    base = recipe()
    space = search_space(base, engine="openvino", cores=2)
    from python_backends.threads import physical_cores

    said = apply(base, {"threads.engine": physical_cores()})
    assert said != base
    assert signature(said, space) == signature(base, space)
    assert signature(apply(base, {"threads.tokenizer": 2}), space) != signature(base, space)


def test_a_user_can_narrow_the_search() -> None:
    base = recipe()
    space = search_space(base, engine="openvino", cores=2)
    chosen = narrowed(base, space, [("batching.max_queue_delay_us", (300,)), ("instances.engine", ())])
    assert values(chosen) == {"batching.max_queue_delay_us": (0, 300), "instances.engine": (1, 2)}
    assert narrowed(base, space, []) == space
    with pytest.raises(UsageError, match=r"cache\.enabled.*not searched") as caught:
        narrowed(base, space, [("cache.enabled", ())])
    assert "instances.engine" in (caught.value.mend or "")
