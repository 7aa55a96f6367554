"""Every field of the official API is honoured, accepted without use, or refused by its name."""

from __future__ import annotations

from typing import Any, get_args

import openai
import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import chat_completion_message_param
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.chat.chat_completion_content_part_text_param import ChatCompletionContentPartTextParam
from openai.types.chat.chat_completion_stream_options_param import ChatCompletionStreamOptionsParam
from pydantic import BaseModel, ValidationError

from gateway.errors import ApiError
from gateway.facade.openai.chat import ChatBody
from gateway.facade.openai.completions import CompletionBody
from gateway.facade.openai.embeddings import EmbeddingBody
from gateway.facade.openai.fields import OpenAIBody
from gateway.facade.openai.messages import Message
from gateway.facade.openai.sampling import StreamOptions

CHAT = {"model": "tinygen", "messages": [{"role": "user", "content": "hello"}]}
COMPLETION = {"model": "tinygen", "prompt": "hello"}
ASKS_FOR_SOMETHING = {
    "logit_bias": {"50256": -100},
    "modalities": ["text", "audio"],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "functions": [{"name": "f"}],
    "store": True,
    "top_logprobs": 2,
    "tool_choice": "required",
    "function_call": {"name": "f"},
}


def known(body: type[BaseModel]) -> set[str]:
    refused = body.refused if issubclass(body, OpenAIBody) else {}
    return body.model_fields.keys() | refused.keys()


@pytest.mark.parametrize(
    ("official", "body"),
    [
        (chat_create_params.CompletionCreateParamsStreaming, ChatBody),
        (completion_create_params.CompletionCreateParamsStreaming, CompletionBody),
        (embedding_create_params.EmbeddingCreateParams, EmbeddingBody),
        (ChatCompletionStreamOptionsParam, StreamOptions),
    ],
)
def test_every_official_field_is_known(official: type, body: type[BaseModel]) -> None:
    assert official.__annotations__.keys() - known(body) == set()


def test_every_official_member_of_a_message_is_known() -> None:
    for kind in get_args(chat_completion_message_param.ChatCompletionMessageParam):
        named = kind.__annotations__.keys()
        if not kind.__name__.startswith(("ChatCompletionTool", "ChatCompletionFunction")):  # refused by role
            assert named - known(Message) == set(), kind


def test_every_official_member_of_a_text_part_is_taken() -> None:
    part = dict.fromkeys(ChatCompletionContentPartTextParam.__annotations__) | {"type": "text", "text": "a"}
    assert Message.model_validate({"role": "user", "content": [part, part]}).content == "a\na"


def refusals(body: type[OpenAIBody]) -> list[Any]:
    return [pytest.param(body, name, id=f"{body.__name__}-{name}") for name in body.refused]


@pytest.mark.parametrize(("body", "name"), [*refusals(ChatBody), *refusals(CompletionBody)])
def test_what_is_not_offered_is_refused_by_name(body: type[OpenAIBody], name: str) -> None:
    least = CHAT if body is ChatBody else COMPLETION
    with pytest.raises(ApiError) as caught:
        body.model_validate({**least, name: ASKS_FOR_SOMETHING.get(name, "something")})
    assert (caught.value.code.name, caught.value.field) == ("unsupported", name)
    for harmless in (None, *body.refused[name].harmless):
        body.model_validate({**least, name: harmless})


def test_null_is_as_good_as_nothing() -> None:
    for body, least in ((ChatBody, CHAT), (CompletionBody, COMPLETION)):
        fields = body.model_fields.keys() - least.keys()
        found = body.model_validate({**dict.fromkeys(fields), **least})
        (asked,) = found.asks()
        assert asked.sampling.get("temperature") == 1  # OpenAI's default, not the models'


@pytest.mark.parametrize(
    ("path", "body", "code", "field"),
    [
        ("/chat/completions", {"tools": ASKS_FOR_SOMETHING["tools"]}, "unsupported", "tools"),
        ("/chat/completions", {"top_logprobs": 1, "logprobs": True}, "unsupported", "top_logprobs"),
        ("/chat/completions", {"messages": []}, "invalid_value", "messages"),
        ("/chat/completions", {"messages": [{"role": "user"}]}, "missing_field", "messages.0.content"),
        (
            "/chat/completions",
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]},
            "unsupported",
            "messages.0.role",
        ),
        (
            "/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "unsupported",
            "messages.0.content",
        ),
        (
            "/chat/completions",
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]},
            "unsupported",
            "messages.0.tool_calls",
        ),
        ("/chat/completions", {"temperature": 2.1}, "invalid_value", "temperature"),
        ("/chat/completions", {"temperature": "hot"}, "invalid_value", "temperature"),
        ("/chat/completions", {"n": 9}, "invalid_value", "n"),
        ("/chat/completions", {"stop": ["x"] * 17}, "invalid_value", "stop"),
        ("/chat/completions", {"stop": [""]}, "invalid_value", "stop.0"),
        ("/chat/completions", {"stream_options": {"include_usage": True}}, "invalid_value", None),
        ("/chat/completions", {"max_tokens": 3, "max_completion_tokens": 4}, "invalid_value", None),
        (
            "/chat/completions",
            {"response_format": {"type": "json_schema"}},
            "invalid_value",
            "response_format",
        ),
        ("/chat/completions", {"model": "embed"}, "wrong_task", "model"),
        ("/chat/completions", {"temprature": 1}, "unknown_field", "temprature"),
        ("/completions", {"prompt": [1, 2]}, "unsupported", "prompt"),
        ("/completions", {"suffix": "end"}, "unsupported", "suffix"),
        ("/completions", {"logprobs": 1}, "invalid_value", "logprobs"),
        ("/completions", {"best_of": 3}, "unsupported", None),
        ("/completions", {"echo": True, "logprobs": 0}, "unsupported", None),
        ("/completions", {"prompt": ["x"] * 17, "n": 2}, "invalid_value", "prompt"),
        ("/completions", {"max_tokens": 0}, "invalid_value", "max_tokens"),
        ("/completions", {"seed": 1 << 64}, "invalid_value", "seed"),
    ],
)
def test_what_is_wrong_is_named(
    client: openai.OpenAI, path: str, body: dict[str, Any], code: str, field: str | None
) -> None:
    least = CHAT if path.startswith("/chat") else COMPLETION
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
        client.post(path, body={**least, **body}, cast_to=object)
    assert (caught.value.code, caught.value.param) == (code, field)


def test_a_harmless_repetition_of_an_answer_is_taken() -> None:
    answer = {"role": "assistant", "content": "x", "refusal": None, "annotations": [], "tool_calls": None}
    assert Message.model_validate(answer).for_template() == {"role": "assistant", "content": "x"}
    with pytest.raises(ValidationError):
        Message.model_validate({**answer, "refusal": "no"})
