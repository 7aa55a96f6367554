"""The clients against a real generator: a tiny model with random weights, served by the backend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients import AsyncClient, Client, InvalidRequestError
from tritonforge.server import ServerOptions, TritonServer

SAMPLED: Any = {"max_tokens": 12, "temperature": 1.0, "ignore_eos": True}


@pytest.fixture(scope="module")
def served(
    tiny_generation_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TritonServer, str]]:
    """The server, and the model's name."""
    name = next(p.parent.name for p in tiny_generation_repository.glob("[!.]*/config.pbtxt"))
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, models=(name,))
    log = tmp_path_factory.mktemp("served") / "tritonserver.log"
    with log.open("wb") as sink, TritonServer(tiny_generation_repository, options, log_sink=sink) as server:
        yield server, name


@pytest.fixture(params=["grpc", "http"])
def client(served: tuple[TritonServer, str], request: pytest.FixtureRequest) -> Iterator[Client]:
    server, name = served
    url = server.grpc_url if request.param == "grpc" else server.http_address
    with Client(url, name, protocol=request.param) as made:
        yield made


def test_a_stream_is_the_whole_answer_in_pieces(client: Client) -> None:
    whole = client.generate("The fire near", seed=5, **SAMPLED)
    with client.stream("The fire near", seed=5, **SAMPLED) as stream:
        pieces = list(stream)
    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces) == whole.text
    assert stream.completion.token_ids == whole.token_ids
    assert (whole.completion_tokens, whole.finish_reason) == (12, "length")
    assert stream.completion.prompt_tokens == whole.prompt_tokens > 0


def test_a_seed_gives_the_same_answer_and_another_another(client: Client) -> None:
    answers = [client.generate("The fire", seed=seed, **SAMPLED).token_ids for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_greedy_is_the_default_and_log_probs_come(client: Client) -> None:
    first, second = (
        client.generate("It rains", max_tokens=5, ignore_eos=True, return_log_probs=True) for _ in range(2)
    )
    assert first.token_ids == second.token_ids
    assert len(first.log_probs) == 5
    assert all(value <= 0 for value in first.log_probs)


def test_both_protocols_give_the_same(served: tuple[TritonServer, str]) -> None:
    server, name = served
    with (
        Client(server.grpc_url, name) as grpc,
        Client(server.http_address, name, protocol="http") as http,
    ):
        assert (
            grpc.generate("A", seed=3, **SAMPLED).token_ids == http.generate("A", seed=3, **SAMPLED).token_ids
        )


def test_chat(client: Client) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    whole = client.chat(messages, max_tokens=6, ignore_eos=True)
    streamed = client.chat_stream(messages, max_tokens=6, ignore_eos=True)
    assert "".join(piece.text for piece in streamed) == whole.text
    assert whole.completion_tokens == 6


@pytest.mark.parametrize(
    ("sampling", "says"), [({"temperature": 9}, "temperature"), ({"max_tokens": 0}, "max_tokens")]
)
def test_wrong_values_are_refused_by_the_server(client: Client, sampling: Any, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        client.generate("A", **sampling)


def test_many_at_once(served: tuple[TritonServer, str]) -> None:
    server, name = served

    async def ask() -> tuple[list[Any], list[Any]]:
        async with AsyncClient(server.grpc_url, name) as client:
            alone = [await client.generate(f"{n} is", seed=n, **SAMPLED) for n in range(8)]
            jobs = (client.generate(f"{n} is", seed=n, **SAMPLED) for n in range(8))
            return alone, await asyncio.gather(*jobs)

    alone, together = asyncio.run(ask())
    assert [a.token_ids for a in alone] == [b.token_ids for b in together]


def test_leaving_a_stream_frees_its_place(client: Client, served: tuple[TritonServer, str]) -> None:
    def counted(reason: str) -> float:
        page = httpx.get(served[0].metrics_url, timeout=60, trust_env=False).raise_for_status().text
        lines = [x for x in page.splitlines() if "finished_requests_total{" in x and f'"{reason}"' in x]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    before = counted("cancelled")
    deadline = time.monotonic() + 20
    # A tiny model may have finished when the news reaches it, so it is left more than once.
    while counted("cancelled") == before and time.monotonic() < deadline:
        for _ in client.stream("The fire", max_tokens=40, ignore_eos=True):
            break
        time.sleep(0.5)  # the counters are handed over a little later
    assert counted("cancelled") > before
