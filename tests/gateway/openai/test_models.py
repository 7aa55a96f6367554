"""The list of models shows what the caller may use."""

from __future__ import annotations

import openai
import pytest


def test_list_and_get(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert listed.keys() == {"embed", "sort", "tinygen"}
    assert listed == {model.id: model for model in client.models.list()}  # created included
    sort = client.models.retrieve("sort").model_dump()
    assert sort == listed["sort"].model_dump()
    assert (sort["task"], sort["labels"]) == ("classification", ["calm", "glad", "sad"])
    assert listed["embed"].model_dump()["dimensions"] == 32


def test_others_are_not_shown(client: openai.OpenAI) -> None:
    bob = client.with_options(api_key="token-of-bob")
    assert [model.id for model in bob.models.list()] == ["embed"]
    with pytest.raises(openai.NotFoundError):
        bob.models.retrieve("sort")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nowhere")
