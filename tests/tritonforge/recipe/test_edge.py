"""``target: edge`` is a set of other defaults, and some bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tritonforge.recipe import Recipe, dump_recipe, load_recipe

TEXTS = {"texts": "package:gensim/gensim/test/test_data/lee_background.cor"}


def recipe(**keys: Any) -> Recipe:
    return Recipe.model_validate({"name": "small", "model": "package:x", "target": "edge", **keys})


def test_an_encoder_is_small_by_default() -> None:
    found = recipe(calibration=TEXTS)
    assert (found.precision, found.stages, found.threads.engine) == ("int8", "fused", 4)
    assert (found.edge.max_model_mb, found.edge.max_memory_mib) == (500, 2048)
    assert found.batching.token_budget < Recipe.model_fields["batching"].default.token_budget
    assert recipe().precision == "int8-weights", "calibrated INT8 needs text"


def test_a_generator_is_small_by_default() -> None:
    found = recipe(task="generation")
    assert (found.engine, found.precision, found.stages) == ("openvino-genai", "int8-weights", "separate")
    assert (found.generation.max_num_seqs, found.threads.engine) == (4, 4)
    assert recipe(task="generation", precision="int4-weights").precision == "int4-weights"


def test_what_the_recipe_says_stays() -> None:
    found = recipe(
        precision="int4-weights", threads={"engine": 2}, stages="separate", batching={"max_batch_size": 8}
    )
    assert (found.precision, found.stages) == ("int4-weights", "separate")
    assert (found.threads.engine, found.threads.tokenizer) == (2, 1)
    assert (found.batching.max_batch_size, found.batching.token_budget) == (8, 1024)


def test_nothing_changes_without_it() -> None:
    plain = Recipe.model_validate({"name": "small", "model": "package:x"})
    assert plain == Recipe.model_validate({"name": "small", "model": "package:x", "target": "server"})
    assert (plain.precision, plain.threads.engine, plain.stages) == ("fp32", 0, "separate")


def test_the_printed_recipe_says_what_it_came_to_and_loads_again(tmp_path: Path) -> None:
    first = recipe(calibration=TEXTS, threads={"engine": 3})
    printed = tmp_path / "printed.yaml"
    printed.write_text(dump_recipe(first))
    assert yaml.safe_load(printed.read_text())["batching"]["max_batch_size"] == 16
    assert load_recipe(printed) == first


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"precision": "fp32"}, "weights of 8 or 4 bits, not precision fp32"),
        ({"precision": "auto"}, "say one of: int8, int8-dynamic, int8-weights, int4-weights"),
        ({"task": "generation", "precision": "fp16"}, "not precision fp16"),
        ({"engine": "tensorrt", "stages": "separate"}, "tensorrt needs a GPU"),
        ({"task": "generation", "engine": "tensorrt-llm", "precision": "bf16"}, "weights of 8 or 4 bits"),
        ({"edge": {"max_memory_mib": 512}}, "greater than or equal to 1024"),
        ({"edge": {"disk": 1}}, "Extra inputs are not permitted"),
        ({"target": "server", "edge": {"max_model_mb": 5}}, "say `target: edge`"),
        ({"target": "phone"}, "Input should be 'server' or 'edge'"),
        ({"threads": 4}, "should be a valid dictionary"),
    ],
)
def test_refusals_say_what_to_do(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        recipe(**keys)
    assert says in str(caught.value)


def test_the_command_line_can_ask_for_it(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("name: small\nmodel: package:x\n")
    found = load_recipe(path, ["target=edge", "edge.max_memory_mib=1024"])
    assert (found.stages, found.edge.max_memory_mib) == ("fused", 1024)
