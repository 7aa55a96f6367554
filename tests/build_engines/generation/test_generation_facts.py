"""What is read of a model, and which models are refused before anything is made of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from build_engines.generation.facts import ModelFacts, read_facts
from build_engines.generation.spec import kv_bytes_per_token, settle_generator
from build_engines.model_files import find_model
from tritonforge.errors import ModelFilesError, RecipeError
from tritonforge.recipe import Recipe

FACTS = ModelFacts("llama", "LlamaForCausalLM", 1000, 30, 3, 64, 8192, {}, [2], True)


@pytest.fixture
def edited(tiny_generator: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny Llama whose config.json says other things."""

    def make(**config: Any) -> Path:
        folder = shutil.copytree(tiny_generator, tmp_path / "edited", dirs_exist_ok=True)
        data = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**data, **config}))
        return folder

    return make


def facts(folder: Path) -> ModelFacts:
    return read_facts(find_model(str(folder)))


def settle(found: ModelFacts = FACTS, engine: Any = "openvino-genai", **keys: Any) -> Any:
    recipe = {"name": "toy", "model": "toy", "task": "generation", **keys}
    return settle_generator(Recipe.model_validate(recipe), found, engine)


def test_what_is_read(tiny_generator: Path) -> None:
    found = facts(tiny_generator)
    assert (found.model_type, found.architecture) == ("llama", "LlamaForCausalLM")
    assert (found.layers, found.kv_heads, found.head_dim, found.context) == (2, 2, 16, 512)
    assert found.limits == {} and found.chat_template and len(found.stop_ids) == 1


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"]}, "not a causal language model"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "is an encoder-decoder"),
        ({"architectures": ["OwnForCausalLM"]}, "transformers has no OwnForCausalLM"),
        ({"architectures": None}, "not a causal language model"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}},
            "transformers does not know this model",
        ),
        (
            {"model_type": "mamba", "architectures": ["MambaForCausalLM"], "num_attention_heads": 4},
            "keep no keys and values",
        ),
    ],
)
def test_other_models_are_refused(edited: Callable[..., Path], config: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelFilesError, match=says) as caught:
        facts(edited(**config))
    assert caught.value.mend and str(caught.value.where).endswith("config.json")


def test_code_of_a_model_is_not_run(edited: Callable[..., Path]) -> None:
    folder = edited(model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    (folder / "own.py").write_text("open(__file__ + '.ran', 'w').close()\nclass OwnConfig: pass\n")
    with pytest.raises(ModelFilesError):
        facts(folder)
    assert not (folder / "own.py.ran").exists()


def test_a_tokenizer_must_be_there(edited: Callable[..., Path]) -> None:
    folder = edited()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelFilesError, match="there is no tokenizer"):
        facts(folder)


def test_all_ends_count(edited: Callable[..., Path]) -> None:
    """The base model's end of text, and the end of turn that only the tokenizer knows."""
    folder = edited(eos_token_id=5)
    (own,) = set(facts(edited()).stop_ids)
    (folder / "generation_config.json").unlink(missing_ok=True)
    assert facts(edited(eos_token_id=5)).stop_ids[0] in (5, own)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8]}))
    assert facts(folder).stop_ids == [7, 8, own]


@pytest.mark.parametrize(
    ("config", "limits"),
    [
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 128}, [128]),
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}, []),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, []),
        (
            {
                "rope_parameters": {
                    "rope_type": "dynamic",
                    "factor": 4.0,
                    "rope_theta": 1e4,
                    "original_max_position_embeddings": 256,
                }
            },
            [256],
        ),
    ],
)
def test_lengths_up_to_which_the_graph_is_right(
    edited: Callable[..., Path], config: dict[str, Any], limits: list[int]
) -> None:
    found = facts(edited(**config))
    assert list(found.limits.values()) == limits
    spec = settle(found)
    assert spec.max_length == min([512, *limits])
    assert any("served up to" in note for note in spec.notes) == bool(limits)
    with pytest.raises(RecipeError, match="can be served up to"):
        settle(found, max_length=spec.max_length + 1)


# -- the KV cache


def test_bytes_of_a_token() -> None:
    assert kv_bytes_per_token(FACTS, "f16") == 2 * 30 * 3 * 64 * 2
    assert kv_bytes_per_token(FACTS, "f32") == 2 * kv_bytes_per_token(FACTS, "f16")
    assert kv_bytes_per_token(FACTS, "f16") / 2 < kv_bytes_per_token(FACTS, "u8") < 13000


@pytest.mark.parametrize(
    ("keys", "tokens"),
    [
        ({}, 32 * 512),
        ({"generation": {"max_num_seqs": 2}}, 8192),  # one of the longest must fit
        ({"max_length": 100, "generation": {"max_num_seqs": 1}}, 512),
        ({"max_length": 1000, "generation": {"max_num_seqs": 1}}, 1024),  # whole blocks
        ({"generation": {"kv_cache_precision": "f16", "kv_cache_mib": 300}}, 13632),
        ({"generation": {"kv_cache_precision": "f32", "kv_cache_mib": 600}}, 13632),
    ],
)
def test_size_of_the_cache(keys: dict[str, Any], tokens: int) -> None:
    spec = settle(**keys)
    assert spec.kv_cache_tokens == tokens and tokens % 32 == 0


def test_a_cache_for_less_than_one_sequence_is_refused() -> None:
    keys: dict[str, Any] = {"kv_cache_precision": "f16", "kv_cache_mib": 100}
    with pytest.raises(RecipeError, match=r"100 MiB hold 4544 tokens.*may have 8192") as caught:
        settle(generation=keys)
    assert caught.value.where == "generation.kv_cache_mib"
    assert caught.value.mend == "give 180 MiB or more, or lower max_length"
    assert settle(generation={**keys, "kv_cache_mib": 180}).kv_cache_tokens >= 8192
    with pytest.raises(RecipeError):
        settle(generation={**keys, "kv_cache_mib": 179})


def test_default_answers_leave_room_for_a_prompt() -> None:
    spec = settle(max_length=100)
    assert spec.max_tokens == 50 and "half of max_length" in spec.notes[0]
    assert settle().max_tokens == 256
