"""Each task in the words of ModelService: messages become calls of the services, and their answers messages.

A further task is a class here, and its line in :data:`TASKS`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from gateway.config.limits import Limits
from gateway.errors import ApiError
from gateway.facade.grpc.sampling import ask_of, check_present
from gateway.facade.state import Facade
from gateway.proto.model_service_pb2 import (
    ClassificationOutput,
    EmbeddingOutput,
    FinishReason,
    GenerationOutput,
    LabelScore,
    PredictRequest,
    PredictResponse,
    Usage,
)
from gateway.tasks.call import Call
from gateway.tasks.generation import Answer, Ask

AT_ONCE = 32
"""Generations of one batch that run at the same time, so that it does not fill the servers alone."""
_REASONS = {"stop": FinishReason.FINISH_REASON_STOP, "length": FinishReason.FINISH_REASON_LENGTH}

Q = TypeVar("Q")
Outcome = PredictResponse | ApiError


class Task(ABC, Generic[Q]):
    """What requests ask for. ``Q`` is a question in the words of its service."""

    @abstractmethod
    def read(self, request: PredictRequest, limits: Limits, field: str) -> Q:
        """Check an input.

        Args:
            request: Its ``input`` is of this task.
            limits: Bounds of texts.
            field: Path of the request, with a dot at its end; empty for the only one.

        Raises:
            ApiError: It cannot be asked so.
        """

    @abstractmethod
    async def answer(
        self, facade: Facade, call: Call, model: str | None, questions: Sequence[Q], fields: Sequence[str]
    ) -> Sequence[Outcome]:
        """Answer questions to one model.

        Args:
            facade: The services.
            call: Who asks.
            model: Its name; None where one alone does this.
            questions: At least one.
            fields: Path of the request of each, as for :meth:`read`.

        Returns:
            An answer or an error for each.

        Raises:
            ApiError: None of them can be answered.
        """


class _Texts(Task[str]):
    """Tasks that answer a text with a row; questions to one model are one request to it."""

    name: str

    def read(self, request: PredictRequest, limits: Limits, field: str) -> str:
        text: str = getattr(request, self.name).text
        check_present(text, limits, f"{field}{self.name}.text")
        return text

    async def answer(
        self, facade: Facade, call: Call, model: str | None, questions: Sequence[str], fields: Sequence[str]
    ) -> Sequence[Outcome]:
        places = [f"{field}{self.name}.text" for field in fields]
        if len(questions) == 1:
            return await self._ask(facade, call, model, questions, places[0])
        outcomes: list[Outcome | None] = [
            _refusal(facade, *each) for each in zip(questions, places, strict=True)
        ]
        open_texts = [text for text, refused in zip(questions, outcomes, strict=True) if refused is None]
        answers = iter(await self._ask(facade, call, model, open_texts, self.name) if open_texts else ())
        return [next(answers) if refused is None else refused for refused in outcomes]

    @abstractmethod
    async def _ask(
        self, facade: Facade, call: Call, model: str | None, texts: Sequence[str], field: str
    ) -> Sequence[Outcome]: ...


def _refusal(facade: Facade, text: str, field: str) -> ApiError | None:
    """Whether the screen refuses a text, which must not refuse its neighbours."""
    try:
        facade.screen.check([text], field)
    except ApiError as error:
        return error
    return None


class _Embedding(_Texts):
    name = "embedding"

    async def _ask(
        self, facade: Facade, call: Call, model: str | None, texts: Sequence[str], field: str
    ) -> Sequence[Outcome]:
        rows = await facade.embedding.rows(call, model, texts, field)
        return [
            PredictResponse(
                model=rows.model.name,
                embedding=EmbeddingOutput(values=row.values.tolist()),
                usage=Usage(input_tokens=row.tokens),
            )
            for row in rows.rows
        ]


class _Classification(_Texts):
    name = "classification"

    async def _ask(
        self, facade: Facade, call: Call, model: str | None, texts: Sequence[str], field: str
    ) -> Sequence[Outcome]:
        rows, labels = await facade.classification.classify(call, model, texts, field)
        return [
            PredictResponse(
                model=rows.model.name,
                classification=ClassificationOutput(
                    label=found.label,
                    score=found.score,
                    scores=[LabelScore(label=label, score=score) for label, score in found.scores.items()],
                ),
                usage=Usage(input_tokens=row.tokens),
            )
            for row, found in zip(rows.rows, labels, strict=True)
        ]


class _Generation(Task[Ask]):
    def read(self, request: PredictRequest, limits: Limits, field: str) -> Ask:
        return ask_of(request.generation, limits, f"{field}generation")

    async def answer(
        self, facade: Facade, call: Call, model: str | None, questions: Sequence[Ask], fields: Sequence[str]
    ) -> Sequence[Outcome]:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(ask: Ask, field: str) -> Outcome:
            async with places:
                try:
                    return _generated(
                        await facade.generation.generate(call, model, ask, f"{field}generation")
                    )
                except ApiError as error:
                    return error

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*each)) for each in zip(questions, fields, strict=True)]
        return [task.result() for task in tasks]


def _generated(answer: Answer) -> PredictResponse:
    return PredictResponse(
        model=answer.model,
        generation=GenerationOutput(
            text=answer.text,
            token_ids=answer.token_ids,
            log_probs=answer.log_probs,
            finish_reason=finish_reason(answer.end.finish_reason),
        ),
        usage=Usage(input_tokens=answer.end.prompt_tokens, output_tokens=answer.end.completion_tokens),
    )


def finish_reason(name: str) -> FinishReason:
    """The servers' word as an enum value; one that is not known is left unspecified."""
    return _REASONS.get(name, FinishReason.FINISH_REASON_UNSPECIFIED)


GENERATION = _Generation()
TASKS: dict[str, Task[str] | Task[Ask]] = {
    "embedding": _Embedding(),
    "classification": _Classification(),
    "generation": GENERATION,
}
"""Tasks by the name of their input in ``PredictRequest``."""
