from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from build_engines.model_files import ModelFiles
from build_engines.spec import ModelSpec, settle_spec
from tritonforge.errors import ModelFilesError, RecipeError
from tritonforge.recipe import Recipe

CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 32,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
CLASSIFIER = {
    **CONFIG,
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "ham", "1": "spam"},
}
MODULES = [
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
]
NORMALIZE = {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"}


class Settle:
    """Settles a recipe on a folder of JSON files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, value: Any) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))

    def __call__(self, config: dict[str, Any], **recipe: Any) -> ModelSpec:
        self.write("config.json", config)
        keys = {"name": "toy", "model": "toy", **recipe}
        return settle_spec(Recipe.model_validate(keys), ModelFiles(self.folder, "toy", ()))


@pytest.fixture
def settle(tmp_path: Path) -> Settle:
    return Settle(tmp_path)


# -- task


@pytest.mark.parametrize(
    ("architectures", "task"),
    [
        (["BertModel"], "embedding"),
        (["BertForMaskedLM"], "embedding"),
        (["BertForSequenceClassification"], "classification"),
        ([], "embedding"),
        (None, "embedding"),
    ],
)
def test_the_task_is_read(settle: Settle, architectures: Any, task: str) -> None:
    assert settle({**CLASSIFIER, "architectures": architectures}).task == task


@pytest.mark.parametrize("architecture", ["BertForTokenClassification", "BertForQuestionAnswering"])
def test_other_tasks_are_refused_unless_the_recipe_insists(settle: Settle, architecture: str) -> None:
    config = {**CONFIG, "architectures": [architecture]}
    with pytest.raises(RecipeError, match="not served yet"):
        settle(config)
    assert settle(config, task="embedding").task == "embedding"


def test_a_generator_is_not_taken_for_an_encoder(settle: Settle) -> None:
    config = {**CONFIG, "architectures": ["Qwen3ForCausalLM"]}
    with pytest.raises(RecipeError, match="Qwen3ForCausalLM, which generates") as caught:
        settle(config)
    assert caught.value.mend == "say task: generation"
    assert settle(config, task="embedding").task == "embedding"


def test_a_sentence_embedder_may_come_from_a_generator(settle: Settle) -> None:
    settle.write("modules.json", MODULES)
    settle.write("1_Pooling/config.json", {"pooling_mode_lasttoken": True})
    spec = settle({**CONFIG, "architectures": ["Qwen3ForCausalLM"]})
    assert (spec.task, spec.pooling) == ("embedding", "last")


def test_a_classifier_may_serve_its_encoder(settle: Settle) -> None:
    spec = settle(CLASSIFIER, task="embedding")
    assert (spec.task, spec.width, spec.labels, spec.output_name) == ("embedding", 32, (), "embedding")


def test_an_encoder_cannot_classify(settle: Settle) -> None:
    with pytest.raises(RecipeError, match="task is classification, and the model is") as caught:
        settle(CONFIG, task="classification")
    assert caught.value.where == "task"


# -- pooling


@pytest.mark.parametrize(
    ("pooling_config", "pooling"),
    [
        ({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "mean", "embedding_dimension": 32, "include_prompt": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["cls"]}, "cls"),
    ],
)
@pytest.mark.parametrize("normalize", [True, False])
def test_modules_json_old_and_new(
    settle: Settle, pooling_config: dict[str, Any], pooling: str, normalize: bool
) -> None:
    settle.write("modules.json", [*MODULES, NORMALIZE] if normalize else MODULES)
    settle.write("1_Pooling/config.json", pooling_config)
    spec = settle(CONFIG)
    assert (spec.pooling, spec.normalize) == (pooling, normalize)
    assert spec.notes == ()


def test_what_sentence_transformers_itself_saves(settle: Settle) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    for mode, pooling in [("mean", "mean"), ("cls", "cls"), ("lasttoken", "last")]:
        settle.write("modules.json", MODULES)
        (settle.folder / "1_Pooling").mkdir(exist_ok=True)
        Pooling(32, pooling_mode=mode).save(str(settle.folder / "1_Pooling"))
        assert settle(CONFIG).pooling == pooling


@pytest.mark.parametrize(
    "pooling_config",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode": "weightedmean"},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode": ["mean", "max"]},
        {},
    ],
)
def test_other_poolings_are_refused_unless_the_recipe_insists(
    settle: Settle, pooling_config: dict[str, Any]
) -> None:
    settle.write("modules.json", MODULES)
    settle.write("1_Pooling/config.json", pooling_config)
    with pytest.raises(ModelFilesError, match="mean, cls and lasttoken are") as caught:
        settle(CONFIG)
    assert caught.value.where and caught.value.where.endswith("1_Pooling/config.json")
    assert settle(CONFIG, embedding={"pooling": "cls"}).pooling == "cls"


@pytest.mark.parametrize("kind", ["Dense", "LayerNorm", "Router"])
def test_modules_that_would_be_left_out_are_refused(settle: Settle, kind: str) -> None:
    settle.write("modules.json", [*MODULES, {"type": f"sentence_transformers.models.{kind}", "path": "2"}])
    settle.write("1_Pooling/config.json", {"pooling_mode": "mean"})
    with pytest.raises(ModelFilesError, match=kind):
        settle(CONFIG)


def test_without_modules_json_the_assumption_is_noted(settle: Settle) -> None:
    spec = settle(CONFIG)
    assert (spec.pooling, spec.normalize) == ("mean", False)
    assert "mean pooling without normalization assumed" in spec.notes[0]
    spec = settle(CONFIG, embedding={"pooling": "cls", "normalize": True})
    assert (spec.pooling, spec.normalize, spec.notes) == ("cls", True, ())


def test_the_recipe_wins_over_modules_json(settle: Settle) -> None:
    settle.write("modules.json", [*MODULES, NORMALIZE])
    settle.write("1_Pooling/config.json", {"pooling_mode": "mean"})
    spec = settle(CONFIG, embedding={"pooling": "last", "normalize": False})
    assert (spec.pooling, spec.normalize) == ("last", False)


# -- labels and scores


def test_labels_come_in_the_order_of_the_logits(settle: Settle) -> None:
    shuffled = {"10": "k", "2": "c", "0": "a", "1": "b", **{str(i): "x" for i in range(3, 10)}}
    spec = settle({**CLASSIFIER, "id2label": shuffled})
    assert spec.labels == ("a", "b", "c", *"xxxxxxx", "k")
    assert (spec.width, spec.output_name) == (11, "scores")


def test_a_classifier_without_labels_gets_transformers_names(settle: Settle) -> None:
    config = {key: value for key, value in CLASSIFIER.items() if key != "id2label"}
    assert settle(config).labels == ("LABEL_0", "LABEL_1")


def test_labels_of_the_recipe(settle: Settle) -> None:
    assert settle(CLASSIFIER, classification={"labels": ["no", "yes"]}).labels == ("no", "yes")
    with pytest.raises(RecipeError, match="3 labels for a model of 2") as caught:
        settle(CLASSIFIER, classification={"labels": ["a", "b", "c"]})
    assert caught.value.where == "classification.labels"


@pytest.mark.parametrize("label", ["two\nlines", "a\x85b", "a\u2028b", ""])
def test_a_label_must_fit_a_line_of_the_labels_file(settle: Settle, label: str) -> None:
    with pytest.raises(RecipeError, match="one line"):
        settle(CLASSIFIER, classification={"labels": ["fine", label]})
    with pytest.raises(RecipeError, match="one line"):
        settle({**CLASSIFIER, "id2label": {"0": label, "1": "fine"}})


@pytest.mark.parametrize(
    ("config", "recipe", "activation"),
    [
        ({}, {}, "softmax"),
        ({"problem_type": "single_label_classification"}, {}, "softmax"),
        ({"problem_type": "multi_label_classification"}, {}, "sigmoid"),
        ({"id2label": {"0": "relevance"}}, {}, "sigmoid"),
        ({"problem_type": "multi_label_classification"}, {"activation": "softmax"}, "softmax"),
        ({}, {"activation": "sigmoid"}, "sigmoid"),
    ],
)
def test_activation(settle: Settle, config: dict[str, Any], recipe: dict[str, Any], activation: str) -> None:
    assert settle({**CLASSIFIER, **config}, classification=recipe).activation == activation


def test_modernbert_may_pool_the_mean(settle: Settle) -> None:
    assert settle({**CLASSIFIER, "classifier_pooling": "mean"}).head_pooling == "mean"
    assert settle({**CLASSIFIER, "classifier_pooling": "cls"}).head_pooling == "cls"


# -- lengths


@pytest.mark.parametrize(
    ("config", "files", "expected"),
    [
        ({}, {}, 512),
        ({}, {"sentence_bert_config.json": {"max_seq_length": 256}}, 256),
        ({}, {"tokenizer_config.json": {"model_max_length": 128}}, 128),
        ({}, {"tokenizer_config.json": {"model_max_length": int(1e30)}}, 512),
        ({}, {"tokenizer_config.json": {"model_max_length": 1e30}}, 512),
        ({}, {"tokenizer_config.json": {"model_max_length": None}}, 512),
        ({}, {"sentence_bert_config.json": {"max_seq_length": 9999}}, 512),
        ({}, {"sentence_bert_config.json": {"max_seq_length": None}}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, {}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 0}, {}, 513),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": None}, {}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, {}, 512),
        ({"model_type": "camembert", "max_position_embeddings": 514, "pad_token_id": 1}, {}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}, {}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 7}, {}, 512),
        ({"model_type": "electra", "pad_token_id": 9}, {}, 512),
    ],
)
def test_max_length(settle: Settle, config: dict[str, Any], files: dict[str, Any], expected: int) -> None:
    for name, value in files.items():
        settle.write(name, value)
    assert settle({**CONFIG, **config}).max_length == expected


def test_a_recipe_may_ask_for_less_or_for_all_positions(settle: Settle) -> None:
    settle.write("sentence_bert_config.json", {"max_seq_length": 128})
    assert settle(CONFIG, max_length=16).max_length == 16
    assert settle(CONFIG, max_length=512).max_length == 512


def test_a_recipe_may_not_ask_for_more_than_there_are_positions(settle: Settle) -> None:
    with pytest.raises(RecipeError, match="the model has positions for 512") as caught:
        settle(CONFIG, max_length=513)
    assert caught.value.where == "max_length"
    roberta = {**CONFIG, "model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    with pytest.raises(RecipeError, match="positions for 512"):
        settle(roberta, max_length=513)


def test_a_model_without_any_limit(settle: Settle) -> None:
    config = {key: value for key, value in CONFIG.items() if key != "max_position_embeddings"}
    spec = settle(config)
    assert spec.max_length == 512
    assert any("512 tokens assumed" in note for note in spec.notes)


def test_width_of_distilbert_is_called_dim(settle: Settle) -> None:
    config = {key: value for key, value in CONFIG.items() if key != "hidden_size"}
    assert settle({**config, "dim": 48}).width == 48


def test_lowercasing_of_sentence_transformers(settle: Settle) -> None:
    assert settle(CONFIG).lowercase is False
    settle.write("sentence_bert_config.json", {"do_lower_case": True})
    assert settle(CONFIG).lowercase is True
