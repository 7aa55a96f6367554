"""Many streams at once, some of which are left: the others, the slots, the queue and the memory."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from clients import AsyncClient, Client, Completion, RetryPolicy, UnavailableError
from loadtest.corpus import LengthMix, make_texts
from loadtest.generation_client import ask_over_grpc
from python_backends.generator import metrics
from tritonforge.server import ServerOptions, TritonServer

NARROW = "narrow"  # the same model with two slots, and a line of four
PROMPTS = make_texts(16, LengthMix.parse("3,6"), seed=5)
SAMPLING = {"max_tokens": 40, "ignore_eos": True}
ENDLESS = {"max_tokens": 16_000, "ignore_eos": True}  # whoever asks for that is gone before the end
NO_RETRY = RetryPolicy(attempts=1)
PROTOCOLS = ("grpc", "http")


@pytest.fixture(scope="module")
def model(tiny_generation_repository: Path) -> str:
    (tokenizer,) = tiny_generation_repository.glob("*/*/tokenizer.json")
    return tokenizer.parents[1].name


@pytest.fixture(scope="module")
def server(
    tiny_generation_repository: Path, model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """The model, and beside it the narrow one of the same files; the context of both is long."""
    folder = tmp_path_factory.mktemp("load")
    repository = folder / "repository"
    settings = {model: {"max_num_batched_tokens": "64"}, NARROW: {"max_num_seqs": "2", "queue_max_size": "4"}}
    for name, changes in settings.items():
        (repository / name).mkdir(parents=True)
        for path in (tiny_generation_repository / model).iterdir():
            (repository / name / path.name).symlink_to(path.resolve())
        config_path = repository / name / "config.pbtxt"
        config = text_format.Parse(config_path.read_text(), model_config_pb2.ModelConfig())
        config.name = name
        for key, value in {"max_length": "16384", **changes}.items():
            config.parameters[key].string_value = value
        config_path.unlink()
        config_path.write_text(text_format.MessageToString(config))
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, engine_threads=1)
    with (
        (folder / "server.log").open("wb") as sink,
        TritonServer(repository, options, log_sink=sink) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def alone(server: TritonServer, model: str) -> dict[str, Completion]:
    """What each prompt gives to a request that has the engine for itself."""
    with Client(server.grpc_url, model) as client:
        return {prompt: client.generate(prompt, **SAMPLING) for prompt in PROMPTS}


def connect(server: TritonServer, model: str, protocol: str) -> AsyncClient:
    url = server.grpc_url if protocol == "grpc" else server.http_address
    return AsyncClient(url, model, protocol=protocol, timeout=300, retry=NO_RETRY)


def gauges(server: TritonServer, model: str) -> dict[str, float]:
    """The generation metrics of a model; the counter of ends by its reasons."""
    text = httpx.get(server.metrics_url, timeout=60, trust_env=False).text
    found = re.findall(rf"^({metrics.PREFIX}\w+)\{{([^}}]*)\}} (\S+)$", text, re.MULTILINE)
    return {
        f"{name}:{reason[1]}" if (reason := re.search(r'reason="(\w+)"', labels)) else name: float(value)
        for name, labels, value in found
        if f'model="{model}"' in labels
    }


def settled(server: TritonServer, model: str, **ended: float) -> dict[str, float]:
    """The metrics, which lag a little, once nothing runs or waits and so many requests have ended so."""
    return once(
        server,
        model,
        lambda now: (
            now[metrics.RUNNING] == now[metrics.WAITING] == now[metrics.KV_USED] == 0
            and all(now[metrics.finished(reason)] >= count for reason, count in ended.items())
        ),
    )


def once(
    server: TritonServer, model: str, holds: Callable[[dict[str, float]], bool], patience: float = 120
) -> dict[str, float]:
    """The metrics once something holds of them."""
    end = time.monotonic() + patience
    while not holds(now := gauges(server, model)):
        assert time.monotonic() < end, now
        time.sleep(0.05)
    return now


async def stay(server: TritonServer, model: str, protocol: str, prompt: str) -> tuple[str, Completion]:
    async with connect(server, model, protocol) as client, client.stream(prompt, **SAMPLING) as stream:
        text = "".join([piece.text async for piece in stream])
        return text, stream.completion


async def leave(server: TritonServer, model: str, protocol: str, prompt: str, after: int) -> None:
    """Go after so many pieces, of an answer that is long yet."""
    async with connect(server, model, protocol) as client, client.stream(prompt, **ENDLESS) as stream:
        for _ in range(after):
            await anext(stream)


def check(answer: tuple[str, Completion], expected: Completion) -> None:
    text, completion = answer
    assert text == completion.text == expected.text
    assert completion.token_ids == expected.token_ids
    assert completion.finish_reason == "length"


async def test_those_who_stay_are_not_touched_by_those_who_leave(
    server: TritonServer, model: str, alone: dict[str, Completion]
) -> None:
    rng = random.Random(11)
    before = settled(server, model, length=len(alone))
    leaving = set(rng.sample(range(64), 21))
    staying = {}
    async with asyncio.TaskGroup() as group:
        for number in range(64):
            prompt, protocol = PROMPTS[number % 16], PROTOCOLS[number // 16 % 2]
            if number in leaving:
                group.create_task(leave(server, model, protocol, prompt, rng.randrange(8)))
            else:
                staying[number] = group.create_task(stay(server, model, protocol, prompt))
    for number, task in staying.items():
        check(task.result(), alone[PROMPTS[number % 16]])
    after = settled(server, model, length=before[metrics.finished("length")] + 43)
    ended = {reason: metrics.finished(reason) for reason in metrics.REASONS}
    changes = {reason: after[key] - before[key] for reason, key in ended.items() if after[key] != before[key]}
    # Some leave before their request is sent; none comes to its end.
    assert changes["length"] == 43
    assert changes.keys() == {"length", "cancelled"}
    assert 0 < changes["cancelled"] <= 21

    # Each slot serves again.
    again = await asyncio.gather(*(stay(server, model, "grpc", prompt) for prompt in PROMPTS * 2))
    for prompt, answer in zip(PROMPTS * 2, again, strict=True):
        check(answer, alone[prompt])
    assert httpx.get(f"{server.http_url}/v2/models/{model}/ready", timeout=60, trust_env=False).is_success


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_full_queue_turns_away_at_once(
    server: TritonServer, model: str, alone: dict[str, Completion], protocol: str
) -> None:
    before = settled(server, NARROW)

    async def begin(running: int, waiting: int, *asking: asyncio.Task[Any]) -> None:
        def holds(now: dict[str, float]) -> bool:
            return (now[metrics.RUNNING], now[metrics.WAITING]) == (running, waiting)

        await asyncio.to_thread(once, server, NARROW, holds)
        assert not any(task.done() for task in asking)

    async with asyncio.TaskGroup() as group:
        endless = [
            group.create_task(leave(server, NARROW, protocol, prompt, ENDLESS["max_tokens"]))
            for prompt in PROMPTS[:2]
        ]
        await begin(2, 0, *endless)
        waiting = [group.create_task(stay(server, NARROW, protocol, prompt)) for prompt in PROMPTS[2:6]]
        await begin(2, 4, *endless, *waiting)
        asked = (stay(server, NARROW, protocol, prompt) for prompt in PROMPTS[6:])
        refused = await asyncio.gather(*asked, return_exceptions=True)
        # None of the refused waited until the accepted were through.
        assert not any(task.done() for task in (*endless, *waiting))
        for task in endless:
            task.cancel()
    for prompt, task in zip(PROMPTS[2:6], waiting, strict=True):
        check(task.result(), alone[prompt])
    for error in refused:
        assert isinstance(error, UnavailableError)
        assert error.status == "UNAVAILABLE"
        assert "2 sequences run and 4 requests wait" in error.message
    rejected = before[metrics.finished("rejected")] + len(refused)
    assert settled(server, NARROW, rejected=rejected)[metrics.finished("rejected")] == rejected


@pytest.mark.slow
def test_memory_levels_off(server: TritonServer, model: str, record_property: pytest.RecordProperty) -> None:
    """Prompts of many lengths, short answers.

    The engine keeps what it has prepared for each number of tokens in a step, up to max_num_batched_tokens of
    them; it takes many requests to have met all, and then nothing may be added.
    """
    parts = {"tritonserver": psutil.Process(server.pid), "stub": stub_of(server, model)}
    sizes: dict[int, dict[str, int]] = {}
    for done in range(500, 2501, 500):
        prompts = make_texts(500, LengthMix.parse("2,3,5,8,13"), seed=done)
        turn = ask_over_grpc(server.grpc_url, model, prompts, 24, 4)
        assert turn.tokens == 2000
        sizes[done] = {name: part.memory_info().rss >> 20 for name, part in parts.items()}
    record_property("rss_mib", sizes)
    for name in parts:
        assert sizes[2500][name] - sizes[1500][name] <= 8, f"MiB resident by requests: {sizes}"
        assert sizes[2500][name] - sizes[500][name] <= 256, f"MiB resident by requests: {sizes}"
    settled(server, model)


def stub_of(server: TritonServer, model: str) -> psutil.Process:
    """The process that runs the model."""
    stubs = [
        child
        for child in psutil.Process(server.pid).children(recursive=True)
        if any(f"/{model}/" in part for part in child.cmdline())
    ]
    assert len(stubs) == 1, stubs
    return stubs[0]
