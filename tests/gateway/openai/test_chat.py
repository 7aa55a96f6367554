"""Conversations through the official client."""

from __future__ import annotations

from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel

MESSAGES: list[Any] = [
    {"role": "system", "content": "Be brief.\nBe kind."},
    {"role": "user", "content": "What did the minister say?"},
]
GREEDY: dict[str, Any] = {"model": "tinygen", "messages": MESSAGES, "temperature": 0, "max_tokens": 12}


def text_of(answer: openai.types.chat.ChatCompletion) -> str:
    (choice,) = answer.choices
    assert choice.message.content is not None
    return choice.message.content


def test_whole_and_streamed_agree(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY)
    first, *parts, last = client.chat.completions.create(
        **GREEDY, stream=True, stream_options={"include_usage": True, "include_obfuscation": False}
    )
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert "".join(part.choices[0].delta.content or "" for part in parts) == text_of(whole)
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert last.choices == []
    assert last.usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12
    assert whole.system_fingerprint == first.system_fingerprint == "tinygen@1"
    assert whole.id != first.id


def test_other_ways_to_say_the_same(client: openai.OpenAI) -> None:
    expected = text_of(client.chat.completions.create(**GREEDY))
    parts = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    same: list[dict[str, Any]] = [
        {"messages": [{**MESSAGES[0], "role": "developer"}, MESSAGES[1]]},
        {"messages": [{"role": "system", "content": parts}, MESSAGES[1]]},
        {"temperature": 1.3, "top_p": 0},
        {"max_tokens": openai.omit, "max_completion_tokens": 12},
        {"user": "u", "metadata": {"a": "b"}, "store": False, "tools": [], "logit_bias": {}, "n": 1},
        {"response_format": {"type": "text"}, "service_tier": "auto", "parallel_tool_calls": True},
    ]
    for change in same:
        assert text_of(client.chat.completions.create(**{**GREEDY, **change})) == expected, change


def test_a_conversation_goes_on_with_the_clients_own_message(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(**GREEDY).choices[0].message
    again = client.chat.completions.create(
        **{**GREEDY, "messages": [*MESSAGES, first, {"role": "user", "content": "And then?"}]}
    )
    assert again.usage is not None
    assert again.usage.completion_tokens > 0


def test_sampling_is_passed_on(client: openai.OpenAI) -> None:
    def ask(**settings: Any) -> str:
        return text_of(client.chat.completions.create(**{**GREEDY, "temperature": 1, **settings}))

    assert ask(seed=5) == ask(seed=5)
    assert ask(seed=5) != ask(seed=6)
    assert ask(seed=5, frequency_penalty=2, presence_penalty=2) != ask(seed=5, temperature=0.1)
    assert ask(seed=5, extra_body={"top_k": 1}) == text_of(client.chat.completions.create(**GREEDY))


def test_stop_is_no_part_of_the_answer(client: openai.OpenAI) -> None:
    text = text_of(client.chat.completions.create(**{**GREEDY, "max_tokens": 40}))
    stop = text[5:7]
    for stops in (stop, ["never said", stop]):
        choice = client.chat.completions.create(**{**GREEDY, "max_tokens": 40}, stop=stops).choices[0]
        assert choice.message.content == text[: text.index(stop)]
        assert choice.finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers_have_seeds_of_their_own(client: openai.OpenAI, stream: bool) -> None:
    settings = {**GREEDY, "temperature": 1, "seed": 5}
    texts = dict.fromkeys(range(3), "")
    answer = client.chat.completions.create(**settings, n=3, stream=stream)
    for part in answer if stream else [answer]:
        for choice in part.choices:
            texts[choice.index] += (choice.delta if stream else choice.message).content or ""
    single = [
        text_of(client.chat.completions.create(**{**settings, "seed": 5 + place})) for place in range(3)
    ]
    assert list(texts.values()) == single
    assert len(set(single)) == 3


def test_logprobs_have_what_is_known(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**GREEDY, logprobs=True).choices[0]
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert len(tokens) == 12
    assert all(token.logprob <= 0 and token.bytes is None and token.top_logprobs == [] for token in tokens)
    assert all(isinstance(token.model_dump()["token_id"], int) for token in tokens)
    assert "".join(token.token for token in tokens) == choice.message.content
    streamed = [
        token
        for part in client.chat.completions.create(**GREEDY, logprobs=True, stream=True)
        if part.choices[0].logprobs
        for token in part.choices[0].logprobs.content or []
    ]
    assert [token.token for token in streamed] == [token.token for token in tokens]
    assert client.chat.completions.create(**GREEDY).choices[0].logprobs is None


class Mood(BaseModel):
    mood: Literal["calm", "glad"]
    sure: bool


def test_answers_keep_to_a_schema(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(**{**GREEDY, "max_tokens": 100}, response_format=Mood)
    assert isinstance(parsed.choices[0].message.parsed, Mood)
    opened = text_of(client.chat.completions.create(**GREEDY, response_format={"type": "json_object"}))
    assert opened.startswith("{")


def test_the_streaming_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**{**GREEDY, "max_tokens": 100}, response_format=Mood) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert isinstance(final.choices[0].message.parsed, Mood)


async def test_the_asynchronous_client(facade_url: str, client: openai.OpenAI) -> None:
    async with openai.AsyncOpenAI(base_url=f"{facade_url}/v1", api_key="token-of-alice") as caller:
        stream = await caller.chat.completions.create(**GREEDY, stream=True)
        text = "".join([part.choices[0].delta.content or "" async for part in stream])
    assert text == text_of(client.chat.completions.create(**GREEDY))


def test_what_the_model_refuses_has_a_status_even_for_a_stream(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="max_tokens") as caught:
            client.chat.completions.create(**{**GREEDY, "max_tokens": 100_000}, stream=stream)
        assert caught.value.code == "invalid_value"


def test_an_error_in_mid_stream_is_an_event(client: openai.OpenAI) -> None:
    # Eight long answers at once take longer than the time that is allowed for them.
    parts: list[Any] = []
    # Where the machine is busy, the first part takes a while.
    for allowed in ("150", "300", "600", "1200", "2400", "4800"):
        with pytest.raises(openai.APIError) as caught:
            parts.extend(
                client.chat.completions.create(
                    **{**GREEDY, "max_tokens": 200, "n": 8, "temperature": 1},
                    stream=True,
                    extra_headers={"x-request-timeout-ms": allowed},
                    extra_body={"ignore_eos": True},
                )
            )
        assert caught.value.code == "deadline_exceeded"
        if parts:
            break
        assert isinstance(caught.value, openai.InternalServerError)  # it came in time to be a status
    assert parts


def test_the_wire(facade_url: str) -> None:
    headers = {"authorization": "Bearer token-of-alice"}
    body = {**GREEDY, "max_tokens": 2, "stream": True}
    answer = httpx.post(f"{facade_url}/v1/chat/completions", json=body, headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])
    problem = httpx.post(f"{facade_url}/v1/chat/completions", json={**body, "n": 0}, headers=headers)
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["error"]["param"] == problem.json()["field"] == "n"
