"""What all users share: texts, timing, and telling locust and the recorder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import Any, ClassVar

import gevent
from locust import User, constant, task
from locust.env import Environment

from loadtest.corpus import DEFAULT_MIX, PROMPT_MIX, make_texts, parse_mix, read_texts
from loadtest.credentials import credentials
from loadtest.recording import Recorder

TEXTS = 500
AFTER_A_FAILURE_S = (
    0.1  # what is refused at once would be asked again at once, and the load be one of refusals
)

_seeds = count()  # users send different texts, and the same ones in every run


@dataclass(frozen=True)
class Answer:
    """What came back for a request.

    Attributes:
        items: Texts that were answered, or tokens of the answer.
        size: Bytes.
        first_s: Seconds to the first token; None where the answer came as a whole.
        last_s: Seconds to its end, where it was decoded after that.
    """

    items: int
    size: int
    first_s: float | None = None
    last_s: float | None = None


class RequestError(Exception):
    """The server refused, or answered wrongly; the message holds no text of a request."""


class LoadUser(User):
    """A closed loop: the next request is sent when the last was answered."""

    abstract = True
    wait_time = constant(0)
    protocol: ClassVar[str] = ""
    recorder: ClassVar[Recorder | None] = None

    def __init__(self, environment: Environment) -> None:
        """Prepare this user's texts and connect."""
        super().__init__(environment)
        options: Any = environment.parsed_options
        self.options = options
        self.model: str = options.model
        self.timeout: float = options.timeout
        # Not among the options: these a master sends to its workers.
        self.credentials: Mapping[str, str] = credentials()
        self.batches = self._batches()
        self.connect()

    @property
    def generates(self) -> bool:
        """Whether the model answers with text."""
        return bool(self.options.task == "generation")

    def connect(self) -> None:
        """Open the connection."""
        raise NotImplementedError

    def ask(self, texts: list[str]) -> Answer:
        """Send one request and read the whole answer.

        Raises:
            RequestError: The server refused, or answered wrongly.
        """
        raise NotImplementedError

    @task
    def send(self) -> None:
        """Send the next texts, and tell what became of them."""
        texts = next(self.batches)
        start = time.perf_counter()
        failure: Exception | None = None
        answer = Answer(0, 0)
        try:
            answer = self.ask(texts)
        except Exception as error:  # a load test goes on, whatever it is
            failure = error
        milliseconds = (answer.last_s or time.perf_counter() - start) * 1e3
        self._tell(answer, milliseconds, failure, len(texts))
        if failure is not None:
            gevent.sleep(AFTER_A_FAILURE_S)

    def _tell(self, answer: Answer, milliseconds: float, failure: Exception | None, texts: int) -> None:
        name = self.model if self.generates else f"{self.model} x{texts}"
        if failure is not None and not isinstance(failure, RequestError):
            # Locust shows the repr of an exception, and those of many are empty.
            failure = RequestError(f"{type(failure).__name__}: {failure}"[:200])
        self.environment.events.request.fire(
            request_type=self.protocol,
            name=name,
            response_time=milliseconds,
            response_length=answer.size,
            exception=failure,
            context=self.context(),
        )
        first = None if answer.first_s is None else answer.first_s * 1e3
        if failure is None and first is not None:
            self._tell_tokens(name, first, milliseconds, answer.items)
        if self.recorder is not None:
            if failure is None:
                self.recorder.answered(time.time(), milliseconds, answer.items, first)
            else:
                self.recorder.failed(time.time(), str(failure))

    def _tell_tokens(self, name: str, first: float, whole: float, tokens: int) -> None:
        """Rows of their own in locust's table, outside its total; the rate of ``token`` is tokens/s."""
        stats = self.environment.stats
        stats.get(name, "first token").log(first, 0)
        entry = stats.get(name, "token")
        mean = (whole - first) / (tokens - 1) if tokens > 1 else first
        for _ in range(tokens):
            entry.log(mean, 0)

    def _batches(self) -> Iterator[list[str]]:
        """Whole requests only, of as many texts each."""
        options = self.options
        size = 1 if self.generates else options.texts_per_request
        seed = next(_seeds)
        if options.texts_file:
            texts = read_texts(Path(options.texts_file))
            texts = texts[seed % len(texts) :] + texts[: seed % len(texts)]
            texts *= -(-size // len(texts))
        else:
            mix = options.length_mix or (PROMPT_MIX if self.generates else DEFAULT_MIX)
            texts = make_texts(max(TEXTS, size), parse_mix(mix), seed=seed)
        return cycle(texts[start : start + size] for start in range(0, len(texts) - size + 1, size))
