"""What of the runner needs no GPU: how a run is divided among profiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from build_engines.engines.tensorrt.profiles import make_profiles
from build_engines.engines.tensorrt.runner import choose_profile, split_run
from build_engines.spec import ModelSpec
from python_backends.packing import flatten, pack, pad
from tritonforge.recipe import Recipe

LONGEST = 12
SPEC = ModelSpec("embedding", "mean", True, "softmax", "cls", (), 8, LONGEST, 100, 0)


def profiles(layout: Any, **tensorrt: Any) -> Any:
    recipe = Recipe.model_validate(
        {"name": "toy", "model": "toy", "batching": {"max_batch_size": 4}, "tensorrt": tensorrt}
    )
    return make_profiles(recipe, SPEC, layout)


@pytest.mark.parametrize("tensorrt", [{}, {"preset": "latency"}, {"max_tokens": 25}])
@given(lengths=st.lists(st.integers(1, LONGEST), min_size=1, max_size=30))
@settings(deadline=None)
def test_every_part_of_a_packed_run_fits_and_none_is_lost(
    tensorrt: dict[str, Any], lengths: list[int]
) -> None:
    texts = [np.arange(length, dtype=np.int32)[None] for length in lengths]
    batch = flatten(texts)
    there = profiles("packed", **tensorrt)
    parts = list(split_run(pack(batch, np.arange(batch.count)), there))
    for part in parts:
        choose_profile(there, {name: array.shape for name, array in part.items()})
        assert part["cu_seqlens"][0] == 0
        assert part["cu_seqlens"][-1] == len(part["input_ids"])
        assert len(part["max_seqlen"]) == np.diff(part["cu_seqlens"]).max()
    np.testing.assert_array_equal(np.concatenate([part["input_ids"] for part in parts]), batch.tokens)
    assert [int(n) for part in parts for n in np.diff(part["cu_seqlens"])] == lengths


def test_a_padded_run_is_divided_by_texts() -> None:
    batch = flatten([np.ones((1, length), np.int32) for length in range(1, 11)])
    inputs = pad(batch, np.arange(10), 0)
    parts = list(split_run(inputs, profiles("padded")))
    assert [len(part["input_ids"]) for part in parts] == [4, 4, 2]
    for name in ("input_ids", "attention_mask"):
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), inputs[name])
