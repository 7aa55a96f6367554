"""Answers kept, and stampedes that become one computation; no server is needed for either."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from gateway.config.limits import AnswerCache as Config
from gateway.errors import ApiError
from gateway.guards.answers import AnswerCache
from gateway.tasks.rows import Row


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Model:
    """Answers a question with itself and a number that tells computations apart.

    It waits for :attr:`gate`, and fails on the questions in :attr:`bad`.
    """

    def __init__(self, cache: AnswerCache) -> None:
        self.cache = cache
        self.asked: list[list[str]] = []
        self.ended = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.bad: dict[str, Exception] = {}

    async def __call__(self, *questions: str, seconds: float = 30) -> list[str]:
        async def compute(positions: list[int]) -> Sequence[str]:
            asked = [questions[position] for position in positions]
            self.asked.append(asked)
            number = len(self.asked)
            try:
                await self.gate.wait()
            finally:
                self.ended += 1
            for question in asked:
                if question in self.bad:
                    raise self.bad[question]
            return [f"{question}{number}" for question in asked]

        return await self.cache.many(questions, compute, deadline=time.monotonic() + seconds)


def model(clock: Clock | None = None, **config: Any) -> Model:
    return Model(AnswerCache(Config(**config), clock or Clock()))


def counts() -> list[float]:
    name = "tritonforge_gateway_answers_total"
    return [REGISTRY.get_sample_value(name, {"from": kind}) or 0.0 for kind in ("memory", "model", "joined")]


async def under_way() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# -- what is kept


async def test_an_answer_is_kept_for_its_time_and_no_longer() -> None:
    clock = Clock()
    ask = model(clock, ttl_s=60)
    assert await ask("a") == ["a1"]
    clock.now = 59.9
    assert await ask("a") == ["a1"]  # which does not make it live longer
    clock.now = 60.0
    assert await ask("a") == ["a2"]
    assert ask.asked == [["a"], ["a"]]


async def test_the_least_recently_used_goes_first() -> None:
    ask = model(entries=2)
    for question in ("a", "b", "a", "c"):
        await ask(question)
    assert await ask("a", "c") == ["a1", "c3"]
    assert await ask("b") == ["b4"]
    assert len(ask.cache) == 2


async def test_of_a_list_only_what_is_missing_is_computed_and_doubles_once() -> None:
    ask = model()
    await ask("a")
    before = counts()
    assert await ask("b", "a", "b", "c", "a") == ["b2", "a1", "b2", "c2", "a1"]
    assert ask.asked == [["a"], ["b", "c"]]
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 2, 2]


async def test_switched_off_it_keeps_nothing() -> None:
    ask = model(enabled=False)
    assert [await ask("a"), await ask("a", "a")] == [["a1"], ["a2", "a2"]]
    assert len(ask.cache) == 0


async def test_keys_of_any_shape_are_told_apart() -> None:
    cache = AnswerCache(Config())
    keys = [("m", "1", None, "x"), ("m", "1", "None", "x"), ("m", "1, None", "x"), ("m", "1", None, "'x'")]
    for number, key in enumerate(keys):

        async def compute(_: list[int], number: int = number) -> list[int]:
            return [number]

        assert await cache.many([key], compute, deadline=time.monotonic() + 9) == [number]
    assert len(cache) == len(keys)


async def test_a_kept_row_does_not_hold_its_batch() -> None:
    batch = np.frombuffer(bytes(64 * 384 * 4), np.float32).reshape(64, 384)
    cache = AnswerCache(Config())

    async def compute(_: list[int]) -> list[Row]:
        return [Row(batch[3], 7)]

    for _ in range(2):
        (row,) = await cache.many(["key"], compute, deadline=time.monotonic() + 9)
    assert row.values.base is None and row.values.nbytes == 384 * 4
    assert not row.values.flags.writeable and row.tokens == 7


async def test_texts_are_not_kept() -> None:
    cache, text = AnswerCache(Config()), "secret " * 1000

    async def compute(_: list[int]) -> list[int]:
        return [1]

    await cache.many([("m", text)], compute, deadline=time.monotonic() + 9)
    assert sum(sys.getsizeof(key) for key in cache._kept) < 100


# -- asked at once


async def test_a_stampede_is_one_computation() -> None:
    ask = model()
    ask.gate.clear()
    before = counts()
    crowd = [asyncio.create_task(ask("a")) for _ in range(200)]
    await under_way()
    ask.gate.set()
    assert await asyncio.gather(*crowd) == [["a1"]] * 200
    assert ask.asked == [["a"]]
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [0, 1, 199]


async def test_lists_that_overlap_share_what_they_have_in_common() -> None:
    ask = model()
    ask.gate.clear()
    first = asyncio.create_task(ask("a", "b"))
    await under_way()
    second = asyncio.create_task(ask("c", "b", "a"))
    await under_way()
    ask.gate.set()
    assert await first == ["a1", "b1"]
    assert await second == ["c2", "b1", "a1"]
    assert ask.asked == [["a", "b"], ["c"]]


async def test_it_goes_on_without_the_one_who_asked_first() -> None:
    ask = model()
    ask.gate.clear()
    first = asyncio.create_task(ask("a"))
    await under_way()
    second = asyncio.create_task(ask("a"))
    await under_way()
    first.cancel()
    await under_way()
    assert first.cancelled() and not second.done()
    ask.gate.set()
    assert await second == ["a1"]


async def test_it_ends_with_the_last_who_waits() -> None:
    ask = model()
    ask.gate.clear()
    crowd = [asyncio.create_task(ask("a")) for _ in range(3)]
    await under_way()
    for task in crowd:
        assert ask.ended == 0
        task.cancel()
        await under_way()
    assert ask.ended == 1
    # Who comes now does not join what is being cancelled.
    ask.gate.set()
    assert await ask("a") == ["a2"]


async def test_who_comes_while_it_is_cancelled_asks_anew() -> None:
    ask = model()
    ask.gate.clear()
    first = asyncio.create_task(ask("a"))
    await under_way()
    first.cancel()
    await asyncio.sleep(0)  # the caller has left, the computation does not know yet
    second = asyncio.create_task(ask("a"))
    ask.gate.set()
    assert await second == ["a2"]


async def test_each_waits_until_its_own_deadline() -> None:
    ask = model()
    ask.gate.clear()
    patient, hasty = asyncio.create_task(ask("a")), asyncio.create_task(ask("a", seconds=0.05))
    with pytest.raises(ApiError) as error:
        await hasty
    assert error.value.code.name == "deadline_exceeded"
    ask.gate.set()
    assert await patient == ["a1"]
    late = model()
    late.gate.clear()
    with pytest.raises(ApiError):
        await late("a", seconds=-1)


async def test_a_failure_is_everybody_s_and_is_not_kept() -> None:
    ask = model()
    ask.gate.clear()
    ask.bad["a"] = ApiError("model_failed", "it broke")
    crowd = [asyncio.create_task(ask("a")) for _ in range(10)]
    await under_way()
    ask.gate.set()
    failures = await asyncio.gather(*crowd, return_exceptions=True)
    assert failures == [ask.bad["a"]] * 10
    assert ask.asked == [["a"]]
    del ask.bad["a"]
    assert await ask("a") == ["a2"]


@pytest.mark.parametrize("code", ["deadline_exceeded", "cancelled"])
async def test_who_waited_on_another_s_deadline_asks_anew_once_for_all(code: str) -> None:
    ask = model()
    ask.gate.clear()
    ask.bad["a"] = ApiError(code, "of the one who asked first")
    leader, *crowd = [asyncio.create_task(ask("a")) for _ in range(10)]
    await under_way()
    ask.gate.set()
    with contextlib.suppress(ApiError):
        await leader
    assert leader.exception() is ask.bad.pop("a")
    assert await asyncio.gather(*crowd) == [["a2"]] * 9


async def test_nobody_fails_by_another_s_text() -> None:
    ask = model()
    ask.gate.clear()
    ask.bad["bad"] = ApiError("invalid_value", "text at index 1 is bad")
    both = asyncio.create_task(ask("a", "bad"))
    await under_way()
    alone, same = asyncio.create_task(ask("a")), asyncio.create_task(ask("bad", "a"))
    await under_way()
    ask.gate.set()
    failed = await asyncio.gather(both, same, return_exceptions=True)
    assert failed == [ask.bad["bad"]] * 2
    assert await alone == ["a2"]


async def test_a_computation_with_the_wrong_number_of_answers_fails() -> None:
    async def compute(_: list[int]) -> list[int]:
        return [1]

    cache = AnswerCache(Config())
    with pytest.raises(RuntimeError, match="1 answers to 2 questions"):
        await cache.many(["a", "b"], compute, deadline=time.monotonic() + 9)
    assert len(cache) == 0


async def test_closing_ends_what_runs() -> None:
    ask = model()
    ask.gate.clear()
    waiting = asyncio.create_task(ask("a"))
    await under_way()
    await ask.cache.close()
    with pytest.raises(ApiError) as error:
        await waiting
    assert error.value.code.name == "unavailable" and ask.ended == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6), st.integers(0, 4)),
        max_size=12,
    ),
    st.integers(1, 4),
)
def test_whatever_is_asked_is_answered(requests: list[tuple[list[str], int]], entries: int) -> None:
    """In any order, some cancelled, with a small cache: answers fit their questions, and nothing is left."""

    async def run() -> None:
        ask = model(entries=entries)
        tasks = []
        for questions, step in requests:
            (ask.gate.clear if step % 2 else ask.gate.set)()
            tasks.append((questions, asyncio.create_task(ask(*questions))))
            if step == 3:
                tasks[len(questions) % len(tasks)][1].cancel()
            if step:
                await under_way()
        ask.gate.set()
        for questions, task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                assert [answer[0] for answer in await task] == questions
        await under_way()
        assert not ask.cache._flights and not ask.cache._tasks
        assert len(ask.cache) <= entries and ask.ended == len(ask.asked)

    asyncio.run(run())
