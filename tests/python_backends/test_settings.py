from __future__ import annotations

import json

import pytest

from python_backends.settings import EncoderSettings, SettingsError, TokenizerSettings

ENGINE = {"engine": "onnxruntime", "model_file": "model.onnx", "task": "embedding"}


def config(parameters: dict[str, str], **rest: object) -> str:
    values = {key: {"string_value": value} for key, value in parameters.items()}
    return json.dumps({"name": "m", "parameters": values, **rest})


def test_tokenizer_settings() -> None:
    settings = TokenizerSettings.parse(
        config({"max_length": "128", "max_text_bytes": "5000", "threads": "2"})
    )
    assert settings == TokenizerSettings(max_length=128, max_text_bytes=5000, threads=2)


def test_encoder_settings_and_defaults() -> None:
    settings = EncoderSettings.parse(config(ENGINE, instance_group=[{"count": 2}, {"count": 1}]))
    assert (settings.precision, settings.layout, settings.threads) == ("fp32", "packed", 0)
    assert settings.instances == 3
    assert settings.output == "embedding"
    assert settings.vocab_size is None


@pytest.mark.parametrize(
    ("change", "key", "says"),
    [
        ({"engine": "torch"}, "engine", "allowed: onnxruntime, openvino"),
        ({"model_file": ""}, "model_file", "is missing"),
        ({"threads": "two"}, "threads", "whole number"),
        ({"token_budget": "0"}, "token_budget", "at least 1"),
        ({"layout": "ragged"}, "layout", "allowed: packed, padded"),
    ],
)
def test_a_bad_parameter_is_named(change: dict[str, str], key: str, says: str) -> None:
    with pytest.raises(SettingsError) as error:
        EncoderSettings.parse(config(ENGINE | change))
    assert repr(key) in str(error.value)
    assert says in str(error.value)
    assert str(error.value).startswith("m: ")
