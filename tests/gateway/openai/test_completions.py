"""Texts gone on from, through the official client."""

from __future__ import annotations

import openai
import pytest

PROMPT = "The minister said"


def test_whole_and_streamed_agree(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tinygen", prompt=PROMPT, temperature=0, max_tokens=12)
    chunks = list(
        client.completions.create(
            model="tinygen",
            prompt=PROMPT,
            temperature=0,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *parts, last = chunks
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert all(part.choices[0].finish_reason is None and part.usage is None for part in parts[:-1])
    assert len({part.id for part in chunks}) == 1
    assert last.choices == []
    assert last.usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 12


def test_default_length_is_openais(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tinygen", prompt=PROMPT, extra_body={"ignore_eos": True})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_times_n(client: openai.OpenAI, stream: bool) -> None:
    prompts = ["one", "two and three"]
    settings = {"model": "tinygen", "prompt": prompts, "max_tokens": 6, "n": 2, "seed": -3, "echo": True}
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    texts = dict.fromkeys(range(4), "")
    usage = None
    answer = client.completions.create(**settings, **options, extra_body={"ignore_eos": True})
    for part in answer if stream else [answer]:
        usage = part.usage
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert [text.startswith(prompts[place // 2]) for place, text in texts.items()] == [True] * 4
    assert texts[0] != texts[1]
    assert texts[2] != texts[3]
    single = [
        client.completions.create(
            model="tinygen", prompt=prompt, max_tokens=6, seed=-3, extra_body={"ignore_eos": True}
        )
        for prompt in prompts
    ]
    assert [texts[0], texts[2]] == [
        prompt + alone.choices[0].text for prompt, alone in zip(prompts, single, strict=True)
    ]
    assert usage is not None
    assert usage.completion_tokens == 24
    assert usage.prompt_tokens == sum(alone.usage.prompt_tokens for alone in single if alone.usage)


def test_logprobs_are_the_tokens_own(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tinygen", prompt=PROMPT, temperature=0, max_tokens=8, logprobs=0
    ).choices[0]
    told = answer.logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.token_logprobs is not None
    assert told.text_offset is not None
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) == 8
    assert all(value <= 0 for value in told.token_logprobs if value is not None)
    assert "".join(told.tokens) == answer.text
    assert [
        answer.text[at:].startswith(token) for at, token in zip(told.text_offset, told.tokens, strict=True)
    ]
    streamed = client.completions.create(
        model="tinygen", prompt=PROMPT, temperature=0, max_tokens=8, logprobs=0, stream=True
    )
    offsets = [at for part in streamed for at in (part.choices[0].logprobs or told).text_offset or []]
    assert offsets == told.text_offset


async def test_the_asynchronous_client(facade_url: str) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{facade_url}/v1", api_key="token-of-alice", max_retries=0
    ) as client:
        stream = await client.completions.create(
            model="tinygen", prompt=PROMPT, temperature=0, max_tokens=5, stream=True
        )
        texts = [part.choices[0].text async for part in stream]
        whole = await client.completions.create(model="tinygen", prompt=PROMPT, temperature=0, max_tokens=5)
        with pytest.raises(openai.BadRequestError):
            await client.completions.create(model="tinygen", prompt=PROMPT, suffix="x")
    assert "".join(texts) == whole.choices[0].text
