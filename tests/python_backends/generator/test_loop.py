"""The line in front of the engine and the loop around it, with the real engine and a tiny model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from tokenizers import Tokenizer
from tritonclient.grpc import model_config_pb2 as pb

from python_backends.generator import metrics
from python_backends.generator.job import Job, Piece
from python_backends.generator.loop import GenerationLoop, QueueFullError
from python_backends.generator.openvino_genai import OpenVinoGenerator
from python_backends.generator.protocol import Failure, FinishReason, Progress, SamplingParams
from python_backends.generator.settings import GeneratorSettings, QueueSettings
from python_backends.generator.text import TextStream, Vocabulary

PATIENCE_S = 60


class Client:
    """What a client would get, and a way to leave.

    Args:
        held: The loop stands still after the first piece, until :meth:`release`.
    """

    def __init__(self, held: bool = False) -> None:
        self.pieces: list[Piece] = []
        self.failure: Failure | None = None
        self.message = ""
        self.left = False
        self.done = threading.Event()
        self.begun = threading.Event()
        self.free: Callable[[], bool] = lambda: not held

    def release(self) -> None:
        self.free = lambda: True

    def send(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.begun.set()
        eventually(lambda: self.free())
        if piece.finish is not None:
            self.done.set()

    def fail(self, failure: Failure, message: str) -> None:
        assert not self.done.is_set(), "two last responses"
        self.failure, self.message = failure, message
        self.done.set()

    def gone(self) -> bool:
        assert not self.done.is_set(), "asked after the last response, which ends tritonserver"
        return self.left

    @property
    def tokens(self) -> list[int]:
        return [token for piece in self.pieces for token in piece.token_ids]


class Numbers:
    """Keeps what is counted."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}
        self.gauges: dict[str, float] = {}

    def add(self, amounts: Mapping[str, float]) -> None:
        for name, amount in amounts.items():
            self.counts[name] = self.counts.get(name, 0) + amount

    def set(self, name: str, value: float) -> None:
        self.gauges[name] = value

    def observe(self, name: str, value: float) -> None:
        self.add({f"{name} seen": 1})


class Bench:
    """A loop with one engine, and requests for it."""

    def __init__(self, version: Path) -> None:
        config = text_format.Parse((version.parent / "config.pbtxt").read_text("utf-8"), pb.ModelConfig())
        self.settings = GeneratorSettings.parse(json_format.MessageToDict(config, True, True))
        self.vocabulary = Vocabulary(Tokenizer.from_file(str(version / "tokenizer.json")))
        self.engine = OpenVinoGenerator(version, self.settings)

    def job(self, client: Client, tokens: int = 8, stop: tuple[str, ...] = (), **more: object) -> Job:
        params = SamplingParams(max_tokens=tokens, ignore_eos=True)
        prompt = np.arange(5, 25, dtype=np.int64)
        return Job(prompt, params, TextStream(self.vocabulary, stop), client, **more)

    @contextmanager
    def loop(self, slots: int = 4, **queue: object) -> Iterator[tuple[GenerationLoop, Numbers, list[str]]]:
        numbers, broken = Numbers(), list[str]()
        policy = QueueSettings(**queue)
        loop = GenerationLoop(self.engine, slots, policy, numbers, broken.append)
        try:
            yield loop, numbers, broken
        finally:
            loop.close()


@pytest.fixture(scope="module")
def bench(tiny_generation_repository: Path) -> Bench:
    return Bench(tiny_generation_repository / "tinygen" / "1")


def wait(clients: list[Client]) -> None:
    for client in clients:
        assert client.done.wait(PATIENCE_S)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_streamed_or_whole_the_answer_is_the_same(bench: Bench) -> None:
    streamed, whole = Client(), Client()
    with bench.loop() as (loop, numbers, _):
        loop.submit(bench.job(streamed, stream=True))
        loop.submit(bench.job(whole))
        wait([streamed, whole])
    assert len(streamed.pieces) == 8
    assert len(whole.pieces) == 1
    assert "".join(piece.text for piece in streamed.pieces) == whole.pieces[0].text
    assert streamed.tokens == whole.tokens
    last = whole.pieces[0]
    assert (last.finish, last.prompt_tokens, last.completion_tokens) == (FinishReason.LENGTH, 20, 8)
    assert [piece.finish for piece in streamed.pieces[:-1]] == [None] * 7
    assert numbers.counts[metrics.TOKENS] == 16
    assert numbers.counts[metrics.finished("length")] == 2
    assert numbers.counts[f"{metrics.FIRST_TOKEN} seen"] == 2
    assert numbers.gauges[metrics.RUNNING] == 0


def test_a_stop_string_ends_the_sequence_in_the_engine(bench: Bench) -> None:
    whole, stopped = Client(), Client()
    with bench.loop() as (loop, numbers, _):
        loop.submit(bench.job(whole, tokens=40))
        wait([whole])
        text = whole.pieces[0].text
        stop = text[10:12]
        steps = numbers.counts[metrics.STEPS]
        loop.submit(bench.job(stopped, tokens=40, stop=(stop,)))
        wait([stopped])
        eventually(lambda: numbers.gauges[metrics.RUNNING] == 0)
        assert numbers.counts[metrics.STEPS] - steps == stopped.pieces[0].completion_tokens < 40
    assert stopped.pieces[0].text == text[: text.index(stop)]
    assert stopped.pieces[0].finish is FinishReason.STOP
    assert bench.engine.stats().sequences == 0


def test_who_leaves_frees_the_place_at_once(bench: Bench) -> None:
    leaving, next_one = Client(held=True), Client()
    with bench.loop(slots=1) as (loop, numbers, _):
        loop.submit(bench.job(leaving, tokens=400, stream=True))
        assert leaving.begun.wait(PATIENCE_S)
        loop.submit(bench.job(next_one, tokens=4))
        leaving.left = True
        leaving.release()
        wait([leaving, next_one])
        # The step in which it left, perhaps one more for a loop that had asked already; not 400.
        assert numbers.counts[metrics.STEPS] <= len(leaving.pieces) + 1 + 4
    assert leaving.failure is Failure.CANCELLED
    assert len(next_one.tokens) == 4
    assert numbers.counts[metrics.finished("cancelled")] == 1


def test_who_leaves_while_waiting_is_forgotten(bench: Bench) -> None:
    first, waiting = Client(held=True), Client()
    with bench.loop(slots=1) as (loop, _numbers, _):
        loop.submit(bench.job(first, tokens=400, stream=True))
        assert first.begun.wait(PATIENCE_S)
        loop.submit(bench.job(waiting))
        waiting.left = True
        first.release()
        wait([waiting])
        first.left = True
        wait([first])
    assert waiting.failure is Failure.CANCELLED
    assert waiting.tokens == []


def test_a_full_line_turns_away(bench: Bench) -> None:
    running, waiting, refused = Client(held=True), Client(), Client()
    with bench.loop(slots=1, max_size=1) as (loop, _numbers, _):
        loop.submit(bench.job(running, tokens=40, stream=True))
        assert running.begun.wait(PATIENCE_S)
        loop.submit(bench.job(waiting))
        with pytest.raises(QueueFullError, match="as many as queue"):
            loop.submit(bench.job(refused))
        running.release()
        wait([running, waiting])
    assert len(running.tokens) == 40
    assert len(waiting.tokens) == 8


def test_a_request_that_waited_too_long_is_answered(bench: Bench) -> None:
    running, late = Client(held=True), Client()
    with bench.loop(slots=1) as (loop, numbers, _):
        loop.submit(bench.job(running, tokens=400, stream=True))
        assert running.begun.wait(PATIENCE_S)
        loop.submit(bench.job(late, deadline=time.monotonic()))
        running.release()
        wait([late])
        running.left = True
        wait([running])
    assert late.failure is Failure.TIMEOUT
    assert "waited" in late.message
    assert numbers.counts[metrics.finished("timeout")] == 1


def test_with_delay_it_comes_last_instead(bench: Bench) -> None:
    running, late, in_time = Client(held=True), Client(), Client(held=True)
    with bench.loop(slots=1, timeout_action="delay") as (loop, _, _):
        loop.submit(bench.job(running, tokens=40, stream=True))
        assert running.begun.wait(PATIENCE_S)
        loop.submit(bench.job(late, deadline=time.monotonic()))
        loop.submit(bench.job(in_time, tokens=40, stream=True))
        running.release()
        assert in_time.begun.wait(PATIENCE_S)
        assert not late.pieces
        in_time.release()
        wait([late, in_time])
    assert len(late.tokens) == 8


def test_unloading_finishes_what_runs_and_turns_away_what_waits(bench: Bench) -> None:
    running, waiting = Client(held=True), Client()
    with bench.loop(slots=1) as (loop, _, _):
        loop.submit(bench.job(running, tokens=40, stream=True))
        assert running.begun.wait(PATIENCE_S)
        loop.submit(bench.job(waiting))
        running.free = lambda: loop._closing
    assert len(running.tokens) == 40
    assert waiting.failure is Failure.UNAVAILABLE


def test_an_engine_that_fails_fails_its_sequences_and_is_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = bench.engine.step

    def fail() -> Mapping[int, Progress]:
        if 0 in bench.engine._handles:  # the warm-up of a reset
            return step()
        raise RuntimeError("out of registers")

    clients = [Client() for _ in range(3)]
    with bench.loop() as (loop, numbers, broken):
        with monkeypatch.context() as patch:
            patch.setattr(bench.engine, "step", fail)
            for client in clients:
                loop.submit(bench.job(client))
                wait([client])
            eventually(lambda: bool(broken))
        good = Client()
        loop.submit(bench.job(good))
        wait([good])
    assert {client.failure for client in clients} == {Failure.ENGINE}
    assert "out of registers" in clients[0].message
    assert "out of registers" in broken[0]
    assert numbers.counts[metrics.finished("error")] == 3
    assert len(good.tokens) == 8
