"""Recipes that are made of a model folder, and built as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from build_engines.draft import draft_recipe
from tests.conftest import LABELS, MAX_LENGTH, TinyModel
from tritonforge.errors import ModelFilesError, RecipeError
from tritonforge.recipe import load_recipe


def test_an_encoder_is_described_by_its_own_files(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("bert")
    draft = draft_recipe(str(model), tmp_path, name="tiny")
    assert draft.task == "embedding"
    assert f"BertModel: 32 dimensions, mean pooling, texts of up to {MAX_LENGTH} tokens." in draft.found
    assert "No modules.json" in draft.found  # an assumption of ours is said
    assert yaml.safe_load(draft.text) == {"name": "tiny", "model": str(model)}


def test_the_text_is_a_recipe_and_its_hints_are_comments(tiny_model: TinyModel, tmp_path: Path) -> None:
    draft = draft_recipe(str(tiny_model("bert")), tmp_path, name="tiny")
    path = tmp_path / "tiny.yaml"
    path.write_text(draft.text)
    assert load_recipe(path) == draft.recipe
    assert "# calibration: {texts: FILE}" in draft.text
    uncommented = draft.text.replace("# calibration:", "calibration:").replace("# precision:", "precision:")
    path.write_text(uncommented)
    assert load_recipe(path).precision == "auto"


def test_a_classifier_says_its_labels(tiny_model: TinyModel, tmp_path: Path) -> None:
    draft = draft_recipe(str(tiny_model("roberta", "classification")), tmp_path, name="mood")
    assert draft.task == "classification"
    assert f"{len(LABELS)} labels ({', '.join(LABELS)}), softmax" in draft.found


def test_a_causal_model_gets_its_task(tiny_generator: Path, tmp_path: Path) -> None:
    draft = draft_recipe(str(tiny_generator), tmp_path, name="chat")
    assert draft.task == draft.recipe.task == "generation"
    assert draft.recipe.precision == "fp16"
    assert "# precision" not in draft.text


def test_gguf_generates_and_does_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "Tiny Chat.Q4_K.gguf"
    path.write_bytes(b"GGUF" + bytes(20))
    draft = draft_recipe(str(path), tmp_path)
    assert (draft.recipe.name, draft.task) == ("tiny-chat-q4_k", "generation")
    with pytest.raises(RecipeError, match="a GGUF file generates text"):
        draft_recipe(str(path), tmp_path, task="embedding")


def test_a_model_below_the_recipe_is_named_relative_to_it(tmp_path: Path) -> None:
    path = tmp_path / "models" / "chat.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF")
    assert draft_recipe(str(path), tmp_path).recipe.model == "models/chat.gguf"
    assert draft_recipe(str(path), tmp_path / "recipes").recipe.model == str(path)


@pytest.mark.parametrize(
    ("file", "name"), [("7B Chat.gguf", None), ("ok.gguf", "Not_Lower"), ("ok.gguf", "9lives")]
)
def test_names_that_triton_would_not_take_are_refused(tmp_path: Path, file: str, name: str | None) -> None:
    path = tmp_path / file
    path.write_bytes(b"GGUF")
    with pytest.raises(RecipeError) as refused:
        draft_recipe(str(path), tmp_path, name=name)
    assert refused.value.mend


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match="no such model folder"):
        draft_recipe(str(tmp_path / "nothing"), tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFilesError, match="unpickling runs code"):
        draft_recipe(str(tmp_path), tmp_path)


def test_keys_that_do_not_fit_the_task_are_refused(tiny_generator: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="precision int8 is not offered for generation"):
        draft_recipe(str(tiny_generator), tmp_path, name="chat", precision="int8")
