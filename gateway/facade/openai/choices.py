"""Several answers at once: to each prompt, and ``n`` to each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from gateway.facade.state import Facade
from gateway.tasks.call import Call
from gateway.tasks.generation import Ask, Delta, End


@dataclass(frozen=True, slots=True)
class Token:
    """A token with its log probability.

    Attributes:
        text: What came with it; empty where several tokens came at once, for which alone is not known.
        id: In the model's vocabulary.
        log_prob: Natural logarithm.
    """

    text: str
    id: int
    log_prob: float


@dataclass(frozen=True, slots=True)
class Choice:
    """A whole answer; ``tokens`` where log probabilities were asked for."""

    text: str
    end: End
    tokens: tuple[Token, ...] = ()


def tokens_of(delta: Delta) -> tuple[Token, ...]:
    """The tokens of a part of an answer, where their log probabilities were asked for."""
    text = delta.text if len(delta.token_ids) == 1 else ""
    return tuple(
        Token(text, token, value) for token, value in zip(delta.token_ids, delta.log_probs, strict=False)
    )


async def whole(facade: Facade, call: Call, model: str, asks: Sequence[Ask], field: str) -> list[Choice]:
    """Answer all of them; if one fails, the others are cancelled.

    Args:
        facade: What serves.
        call: Who asks.
        model: Its name.
        asks: What to answer.
        field: Where the caller wrote the texts, for messages.

    Raises:
        ApiError: The first of their errors.
    """
    tasks = [asyncio.ensure_future(_whole(facade, call, model, ask, field)) for ask in asks]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _ended(tasks)


async def _whole(facade: Facade, call: Call, model: str, ask: Ask, field: str) -> Choice:
    if not ask.sampling.get("return_log_probs"):
        answer = await facade.generation.generate(call, model, ask, field)
        return Choice(answer.text, answer.end)
    # In a stream each token comes with its text.
    found = await facade.generation.begin(call, model, ask, field)
    deltas = [delta async for delta in facade.generation.stream(call, found, ask)]
    end = deltas[-1].end
    assert end is not None  # or the stream had raised
    return Choice(
        "".join(delta.text for delta in deltas),
        end,
        tuple(token for delta in deltas for token in tokens_of(delta)),
    )


async def streamed(
    facade: Facade, call: Call, model: str, asks: Sequence[Ask], field: str
) -> AsyncGenerator[tuple[int, Delta], None]:
    """The parts of all answers as they come, each with the place of its answer.

    Raises:
        ApiError: The first of their errors; the others are cancelled.
    """
    streams = []
    for ask in asks:
        found = await facade.generation.begin(call, model, ask, field)
        streams.append(facade.generation.stream(call, found, ask))
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for delta in only:
                yield 0, delta
        return
    news: asyncio.Queue[tuple[int, Delta] | Exception | None] = asyncio.Queue(len(streams))

    async def follow(place: int) -> None:
        try:
            async with aclosing(streams[place]) as stream:
                async for delta in stream:
                    await news.put((place, delta))
            await news.put(None)
        except Exception as error:
            await news.put(error)

    tasks = [asyncio.ensure_future(follow(place)) for place in range(len(streams))]
    running = len(tasks)
    try:
        while running:
            item = await news.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        await _ended(tasks)


async def _ended(tasks: Sequence[asyncio.Future[None] | asyncio.Future[Choice]]) -> None:
    """Cancel what still runs, and wait for it."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
