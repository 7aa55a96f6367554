from __future__ import annotations

from typing import Any

import pytest

from build_engines.candidates import wanted
from tritonforge.errors import RecipeError
from tritonforge.recipe import Recipe


def tried(*, has_text: bool = True, **keys: Any) -> set[str]:
    recipe = Recipe.model_validate({"name": "toy", "model": "toy", **keys})
    return {f"{engine}-{precision}" for engine, precision in wanted(recipe, has_text)}


def test_float32_alone_by_default() -> None:
    assert tried() == {"onnxruntime-fp32", "openvino-fp32"}


def test_another_precision_is_measured_against_float32() -> None:
    assert tried(precision="int8", engine="openvino") == {"openvino-fp32", "openvino-int8"}
    assert tried(precision="bf16") == {"openvino-fp32", "openvino-bf16"}


def test_auto_tries_all_that_may_be_fastest() -> None:
    assert {"onnxruntime-int8", "openvino-int8", "openvino-bf16", "openvino-int8-dynamic"} < tried(
        precision="auto"
    )


def test_what_needs_text_is_left_out_without_it() -> None:
    assert not {part for part in tried(precision="auto", has_text=False) if part.endswith("-int8")}


def test_tensorrt_is_tried_where_it_is_named() -> None:
    assert tried(engine="tensorrt", precision="int8") == {"tensorrt-fp32", "tensorrt-int8"}


def test_a_precision_that_the_engine_lacks() -> None:
    with pytest.raises(RecipeError, match="onnxruntime does not serve bf16") as caught:
        tried(engine="onnxruntime", precision="bf16")
    assert caught.value.where == "precision"
    assert caught.value.mend and "openvino: fp32, bf16" in caught.value.mend
