"""Answers of all four clients from a real tritonserver, whose toy model says its prompt back."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from clients import AsyncClient, Client, Completion

LETTERS = " ".join("abcdefghijklmnopqrstuvwxyz")


# Whole answers


def test_generate(generate: Any) -> None:
    answer: Completion = generate(lambda client: client.generate("The Sätze of 漢字 🙂"))
    assert answer.text == "The Sätze of 漢字 🙂"
    assert answer.token_ids == (3, 6, 3, 3, 2)
    assert (answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == ("stop", 5, 5)
    assert answer.log_probs == ()
    assert answer.latency > 0


def test_max_tokens(generate: Any) -> None:
    answer = generate(lambda client: client.generate("one two three", max_tokens=2))
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("one two", "length", 2)


def test_chat(generate: Any) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say é 🙂"}]
    assert generate(lambda client: client.chat(messages)).text == "Say é 🙂"
    messages[-1]["content"] = "!inputs"
    seen = json.loads(generate(lambda client: client.chat(messages)).text)
    assert json.loads(seen["messages"][0]) == messages
    assert "text_input" not in seen


def test_every_parameter_arrives(generate: Any) -> None:
    sampling: dict[str, Any] = {
        "max_tokens": 7,
        "min_tokens": 2,
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 40,
        "seed": 2**64 - 1,
        "stop": ["\n\n", "é"],
        "repetition_penalty": 1.25,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.25,
        "ignore_eos": True,
        "return_log_probs": True,
        "json_schema": {"type": "object"},
    }
    seen = json.loads(generate(lambda client: client.generate("!inputs", **sampling)).text)
    assert json.loads(seen.pop("json_schema")[0]) == {"type": "object"}
    del sampling["json_schema"]
    del seen["text_input"]
    seen.pop("stream", None)  # as the protocol needs
    assert seen.pop("stop") == sampling.pop("stop")
    assert seen == {name: [value] for name, value in sampling.items()}


def test_stop_may_be_one_text_and_none_means_default(generate: Any) -> None:
    seen = json.loads(generate(lambda c: c.generate("!inputs", stop="END", seed=None, top_k=None)).text)
    assert seen["stop"] == ["END"]
    assert not {"seed", "top_k"} & set(seen)


@pytest.mark.parametrize("text", ["a\0b", "data: x\n\ndata: y", '"\\', "x" * 300_000, "\u2028\r"])
def test_odd_texts(generate: Any, text: str) -> None:
    assert generate(lambda client: client.generate(text)).text == text


def test_log_probs(generate: Any) -> None:
    answer = generate(lambda client: client.generate("one three", return_log_probs=True))
    assert answer.log_probs == (-3 / 8, -6 / 8)
    assert generate(lambda client: client.generate("one", return_log_probs=True)).log_probs == (-3 / 8,)


# Streams


def test_stream(generate: Any) -> None:
    found, error, answer = generate.pieces(lambda c: c.stream("one två three", return_log_probs=True))
    assert error is None
    assert [piece.text for piece in found] == ["one", " två", " three"]
    assert [piece.token_ids for piece in found] == [(3,), (4,), (6,)]
    assert [piece.log_probs for piece in found] == [(-3 / 8,), (-4 / 8,), (-6 / 8,)]
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("one två three", "stop", 3)
    assert answer.token_ids == (3, 4, 6)
    assert 0 < answer.ttft <= answer.latency


def test_pieces_come_while_the_answer_goes_on(generate: Any, patiently: Any) -> None:
    def attempt(seconds: float) -> bool:
        _, _, answer = generate.pieces(lambda client: client.stream(f"!pause {seconds} a b c"))
        return bool(answer.ttft < answer.latency - seconds / 2)

    patiently(attempt)


def test_chat_stream(generate: Any) -> None:
    messages = [{"role": "user", "content": "one two"}]
    found, _, answer = generate.pieces(lambda client: client.chat_stream(messages, max_tokens=1))
    assert [piece.text for piece in found] == ["one"]
    assert answer.finish_reason == "length"


def test_many_threads_stream_from_one_client(generation: Any, protocol: Any) -> None:
    def read(client: Client, number: int) -> str:
        prompt = f"!slow 0.02 {number} " + " ".join(LETTERS.split()[:number])
        return "".join(piece.text for piece in client.stream(prompt))

    def read_all(client: Client) -> list[str]:
        with ThreadPoolExecutor(20) as threads:
            return list(threads.map(lambda number: read(client, number), range(1, 21)))

    expected = [f"{number} " + " ".join(LETTERS.split()[:number]) for number in range(1, 21)]
    assert generation(Client, protocol)(read_all) == expected


def test_one_thread_may_hold_many_streams(generation: Any, protocol: Any) -> None:
    """More than ``concurrency``, which would be a deadlock if they counted."""

    def zipped(client: Client) -> list[tuple[str, ...]]:
        streams = [client.stream(f"a{number} b{number}") for number in range(5)]
        return [tuple(piece.text for piece in row) for row in zip(*streams, strict=True)]

    first, second = generation(Client, protocol)(zipped, concurrency=2)
    assert first == ("a0", "a1", "a2", "a3", "a4")
    assert second == (" b0", " b1", " b2", " b3", " b4")


def test_many_tasks_stream_from_one_client(generation: Any, protocol: Any) -> None:
    async def read(client: AsyncClient, number: int) -> str:
        return "".join([piece.text async for piece in client.stream(f"!slow 0.02 {number} a b c")])

    def read_all(client: AsyncClient) -> Any:
        return asyncio.gather(*(read(client, number) for number in range(20)))

    answers = generation(AsyncClient, protocol)(read_all)
    assert answers == [f"{number} a b c" for number in range(20)]
