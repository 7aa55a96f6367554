"""Streamed text: whole characters, all of it, and not a letter of a stop string."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from clients import Client, Completion, InvalidRequestError
from python_backends.generator.chat import ChatTemplate
from tritonforge.server import ServerOptions, TritonServer

PROMPTS = ["你好，请用中文回答。", "مرحبا، كيف حالك؟", "👩🏽‍🌾🏳️‍🌈 emoji only: 🙂🚀"]  # noqa: RUF001 - their full width is the point
# Tokens nearly at random: all scripts, and bytes that make no character.
SAMPLING = {"max_tokens": 48, "temperature": 2.0, "seed": 7, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tiny_generation_repository: Path) -> Path:
    """Version folder of the one model."""
    (version,) = tiny_generation_repository.glob("*/*/tokenizer.json")
    return version.parent


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def server(
    tiny_generation_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    log = tmp_path_factory.mktemp("log") / "server.log"
    with log.open("wb") as sink, TritonServer(tiny_generation_repository, options, log_sink=sink) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def client(server: TritonServer, folder: Path, request: pytest.FixtureRequest) -> Iterator[Client]:
    url = server.grpc_url if request.param == "grpc" else server.http_address
    with Client(url, folder.parent.name, protocol=request.param) as connected:
        yield connected


def streamed(client: Client, prompt: str, **sampling: object) -> tuple[list[str], Completion]:
    with client.stream(prompt, **{**SAMPLING, **sampling}) as stream:
        pieces = [piece.text for piece in stream]
    return pieces, stream.completion


@pytest.mark.parametrize("prompt", PROMPTS)
def test_pieces_join_to_the_text_of_the_tokens(client: Client, tokenizer: Tokenizer, prompt: str) -> None:
    pieces, completion = streamed(client, prompt)
    text = tokenizer.decode(completion.token_ids)
    assert "".join(pieces) == completion.text == text
    assert len(pieces) > 10
    assert (completion.completion_tokens, completion.finish_reason) == (48, "length")
    whole = client.generate(prompt, **SAMPLING)
    assert (whole.text, whole.token_ids) == (text, completion.token_ids)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_stop_string_across_tokens_ends_it(client: Client, tokenizer: Tokenizer, prompt: str) -> None:
    ids = client.generate(prompt, **SAMPLING).token_ids
    text = tokenizer.decode(ids)
    known = [tokenizer.decode(ids[:count]) for count in range(len(ids) + 1)]
    ends = [len(before) for before in known if not before.endswith("\ufffd")]
    across = [text[end - 2 : end + 2] for end in ends if 10 <= end <= len(text) - 2]
    stop = next(stop for stop in across if "\ufffd" not in stop)
    count = next(count for count, before in enumerate(known) if stop in before)

    expected = (text[: text.index(stop)], ids[:count], count)
    pieces, completion = streamed(client, prompt, stop=["never in it", stop])
    for answer in (completion, client.generate(prompt, **SAMPLING, stop=stop)):
        assert (answer.text, answer.token_ids, answer.completion_tokens) == expected
        assert answer.finish_reason == "stop"
    assert "".join(pieces) == completion.text


def test_messages_are_rendered_by_the_models_template(
    client: Client, folder: Path, tokenizer: Tokenizer
) -> None:
    messages = [{"role": "user", "content": prompt} for prompt in PROMPTS[:2]]
    prompt = ChatTemplate.from_folder(folder).render(messages)
    answer = client.chat(messages, max_tokens=4)
    assert answer.prompt_tokens == len(tokenizer.encode(prompt, add_special_tokens=False).ids)
    with pytest.raises(InvalidRequestError, match=r"messages\[1\].role"):
        client.chat([*messages[:1], {"role": "robot", "content": "x"}], max_tokens=4)
