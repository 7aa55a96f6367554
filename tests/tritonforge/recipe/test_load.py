from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tritonforge.errors import RecipeError
from tritonforge.recipe import Recipe, dump_recipe, load_recipe

MINIMAL = "name: toy\nmodel: package:some-model\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(MINIMAL)
    return path


def refused(path: Path, *overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return caught.value


# -- what is right


def test_two_lines_are_enough(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    assert (loaded.name, loaded.engine, loaded.precision) == ("toy", "auto", "fp32")
    assert loaded.batching.max_batch_size == 64


def test_a_folder_is_relative_to_the_recipe(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe.write_text("name: toy\nmodel: ../models/toy\n")
    monkeypatch.chdir("/")
    assert load_recipe(recipe).model == str(recipe.parent.parent / "models" / "toy")


def test_a_folder_may_be_absolute_or_in_the_home_folder(recipe: Path) -> None:
    recipe.write_text("name: toy\nmodel: /models/toy\n")
    assert load_recipe(recipe).model == "/models/toy"
    recipe.write_text("name: toy\nmodel: ~/toy\n")
    assert load_recipe(recipe).model == str(Path("~/toy").expanduser().resolve())


def test_the_dump_holds_every_key_and_loads_again(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe)
    dumped = dump_recipe(loaded)
    for key, field in Recipe.model_fields.items():
        assert key in yaml.safe_load(dumped), f"{key} ({field.description})"
    again = tmp_path / "again.yaml"
    again.write_text(dumped)
    assert load_recipe(again) == loaded


sizes = st.integers(1, 4096)
printable = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]))
recipes = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z][a-z0-9_-]{0,62}", fullmatch=True),
        "model": st.from_regex(r"package:[a-zA-Z0-9._-]{1,40}", fullmatch=True),
    },
    optional={
        "max_length": st.one_of(st.just("auto"), sizes),
        "engine": st.sampled_from(["auto", "onnxruntime", "openvino", "tensorrt"]),
        "precision": st.sampled_from(["auto", "fp32", "int8", "int4-weights", "fp8"]),
        "length_mix": st.lists(
            st.fixed_dictionaries({"tokens": sizes}, optional={"weight": st.floats(0.01, 10)}), min_size=1
        ),
        "batching": sizes.flatmap(
            lambda most: st.fixed_dictionaries(
                {
                    "max_batch_size": st.just(most),
                    "preferred_batch_sizes": st.lists(st.integers(1, most), max_size=4),
                }
            )
        ),
        "queue": st.integers(1, 100).flatmap(
            lambda levels: st.fixed_dictionaries(
                {"priority_levels": st.just(levels), "default_priority": st.integers(1, levels)}
            )
        ),
        # Names that YAML would read as numbers, booleans or nothing if they were not quoted.
        "classification": st.fixed_dictionaries(
            {"labels": st.lists(printable | st.sampled_from(["no", "1", "null", "~", "1e3", "a: b", "#"]))}
        ),
    },
)


@given(recipes)
def test_any_recipe_survives_being_printed(tmp_path_factory: pytest.TempPathFactory, keys: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "generated.yaml"
    recipe = Recipe.model_validate(keys)
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


# -- what is wrong: the file, the key, and what is allowed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "nam: toy\nmodel: package:x\n",
            ["nam: unknown key", "allowed here: name, model, task", "name: Fiel"],
        ),
        (MINIMAL + "batching: {max_batch: 3}\n", ["batching.max_batch: unknown key", "max_queue_delay_us"]),
        (MINIMAL + "batching: {max_batch_size: 0}\n", ["batching.max_batch_size", "greater than 0", "not 0"]),
        (MINIMAL + "batching: {max_batch_size: many}\n", ["batching.max_batch_size", "integer", "'many'"]),
        (MINIMAL + "batching: 3\n", ["batching", "not 3"]),
        (
            MINIMAL + "batching: {max_batch_size: 4, preferred_batch_sizes: [2, 8]}\n",
            ["batching", "preferred_batch_sizes [8] exceed max_batch_size 4"],
        ),
        (
            MINIMAL + "engine: torch\n",
            ["engine", "'tensorrt', 'openvino-genai' or 'tensorrt-llm'", "not 'torch'"],
        ),
        (MINIMAL + "precision: int3\n", ["precision", "'int8-dynamic'", "not 'int3'"]),
        (MINIMAL + "task: rerank\n", ["task", "'auto', 'embedding', 'classification' or 'generation'"]),
        (MINIMAL + "max_length: -1\n", ["max_length", "greater than 0", "'auto'", "not -1"]),
        (MINIMAL + "embedding: {pooling: max}\n", ["embedding.pooling", "'auto', 'mean', 'cls' or 'last'"]),
        (MINIMAL + "length_mix: []\n", ["length_mix", "at least 1 item"]),
        (MINIMAL + "length_mix: [{tokens: 3}, {weight: 1}]\n", ["length_mix.1.tokens: Field required"]),
        (MINIMAL + "length_mix: [{tokens: 3, weight: 0}]\n", ["length_mix.0.weight", "greater than 0"]),
        (MINIMAL + "queue: {priority_levels: 3}\n", ["queue", "default_priority must be 1 to priority_lev"]),
        (MINIMAL + "queue: {default_priority: 1}\n", ["queue", "needs priority_levels above 0"]),
        (MINIMAL + "queue: {timeout_action: drop}\n", ["queue.timeout_action", "'reject' or 'delay'"]),
        (
            "name: a\nmodel: x\nengine: tensorrt\nstages: fused\n",
            ["stages: fused is for encoders on a CPU engine"],
        ),
        (
            MINIMAL + "task: embedding\nclassification: {labels: [a]}\n",
            ["`classification` has no meaning with task embedding"],
        ),
        (
            MINIMAL + "task: classification\nembedding: {pooling: cls}\n",
            ["`embedding` has no meaning with task classification"],
        ),
        ("name: Toy Model\nmodel: package:x\n", ["name", "pattern", "not 'Toy Model'"]),
        ("name: ../toy\nmodel: package:x\n", ["name", "not '../toy'"]),
        ("name: toy\nmodel: ''\n", ["model", "at least 1 character"]),
        ("name: toy\n", ["model: Field required"]),
        ("name: 3\nmodel: package:x\n", ["name", "string", "not 3"]),
    ],
)
def test_a_wrong_key_is_named(recipe: Path, text: str, says: list[str]) -> None:
    recipe.write_text(text)
    error = refused(recipe)
    assert error.where == str(recipe)
    assert error.mend and "--print-recipe" in error.mend
    for part in says:
        assert part in error.what


def test_all_mistakes_come_at_once(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "engine: gpu\nprecision: int3\nbatching: {max_batch_size: 0, x: 1}\n")
    what = refused(recipe).what
    for key in ("engine:", "precision:", "batching.max_batch_size:", "batching.x:"):
        assert key in what


def test_allowed_keys_are_those_of_the_list_s_entries(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "length_mix: [{tokens: 8, share: 0.5}]\n")
    assert "length_mix.0.share: unknown key; allowed here: tokens, weight" in refused(recipe).what


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name: [toy\n", "is not YAML"),
        (b"- name\n- model\n", "must be a mapping"),
        (b"", "must be a mapping"),
        (b"just words\n", "must be a mapping"),
        (b"name: \xff\xfe\n", "cannot be read"),
        (b"name: toy\x00\n", "is not YAML"),
        (b"name: !!python/object/apply:os.system [true]\n", "is not YAML"),
    ],
)
def test_what_is_no_recipe_at_all(recipe: Path, content: bytes, says: str) -> None:
    recipe.write_bytes(content)
    error = refused(recipe)
    assert says in error.what
    assert error.where == str(recipe)
    assert error.mend


def test_a_missing_recipe_names_those_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "one.yaml").write_text(MINIMAL)
    monkeypatch.chdir(tmp_path)
    error = refused(Path("recipes/two.yaml"))
    assert error.where == "recipes/two.yaml"
    assert error.mend and "recipes/one.yaml" in error.mend


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path).what


# -- overrides


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("engine=openvino", ("engine",), "openvino"),
        ("max_length=32", ("max_length",), 32),
        ("batching.max_batch_size=8", ("batching", "max_batch_size"), 8),
        ("batching.preferred_batch_sizes=[4, 8]", ("batching", "preferred_batch_sizes"), [4, 8]),
        ("cache.enabled=true", ("cache", "enabled"), True),
        (" cache.enabled =yes", ("cache", "enabled"), True),
        ("classification.labels=['a=b', no]", None, None),
    ],
)
def test_an_override(recipe: Path, override: str, path: tuple[str, ...] | None, value: object) -> None:
    if path is None:  # a bare `no` is YAML's false, not a label
        assert "classification.labels.1" in refused(recipe, override).what
        return
    node: Any = load_recipe(recipe, [override])
    for part in path:
        node = getattr(node, part)
    assert node == value


def test_overrides_win_over_the_file_and_the_last_over_the_first(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "batching: {max_batch_size: 4, token_budget: 99}\n")
    loaded = load_recipe(recipe, ["batching.max_batch_size=8", "batching.max_batch_size=16"])
    assert loaded.batching.max_batch_size == 16
    assert loaded.batching.token_budget == 99


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("engine", "is not key=value"),
        ("=3", "is not key=value"),
        ("batching..x=3", "is not key=value"),
        ("engine=[", "the value is not YAML"),
        ("name.first=3", "'name' holds a value, not a section"),
        ("batching.max=3", "batching.max: unknown key"),
        ("engine=", "engine"),
    ],
)
def test_a_wrong_override(recipe: Path, override: str, says: str) -> None:
    assert says in refused(recipe, override).what


@given(st.text(max_size=40))
def test_no_override_gives_a_traceback(tmp_path_factory: pytest.TempPathFactory, override: str) -> None:
    path = tmp_path_factory.getbasetemp() / "override.yaml"
    path.write_text(MINIMAL)
    try:
        load_recipe(path, [override])
    except RecipeError as error:
        assert error.what


@given(st.binary(max_size=60))
def test_no_file_gives_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "binary.yaml"
    path.write_bytes(content)
    try:
        load_recipe(path)
    except RecipeError as error:
        assert error.where == str(path)
