"""Generation: an answer to a prompt or a conversation, whole or as it comes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from clients.generation import Sampling
from gateway.errors import ApiError
from gateway.metrics import Answering, Streaming, count_tokens
from gateway.tasks.call import Call
from gateway.tasks.service import Service
from gateway.tracing import note_model
from gateway.triton.models import Model
from gateway.triton.tensors import Outputs, generation_request, unpack_outputs


@dataclass(frozen=True, slots=True)
class Ask:
    """What to answer; exactly one of prompt and messages.

    Attributes:
        prompt: A text to go on from.
        messages: A conversation for the model's chat template: ``role`` and ``content`` each.
        sampling: How; names and ranges are those of the model's inputs.
    """

    prompt: str | None = None
    messages: Sequence[Mapping[str, str]] | None = None
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def texts(self) -> list[str]:
        """Everything that the caller wrote."""
        if self.prompt is not None:
            return [self.prompt]
        return [message["content"] for message in self.messages or ()]

    @property
    def deterministic(self) -> bool:
        """Whether the same question has the same answer: the likeliest token each time."""
        return self.sampling.get("temperature", 0) == 0

    def fields(self, *, stream: bool) -> dict[str, Any]:
        """The model's inputs."""
        fields: dict[str, Any] = {"stream": stream}
        if self.prompt is not None:
            fields["text_input"] = self.prompt
        else:
            fields["messages"] = json.dumps(
                [dict(message) for message in self.messages or ()], ensure_ascii=False
            )
        for name, value in self.sampling.items():
            if value is not None and not (name == "stop" and not value):
                is_list = name == "stop" and not isinstance(value, str)
                # If a list, an iterable.
                fields[name] = list(value) if is_list else value  # type: ignore[call-overload]
        return fields


@dataclass(frozen=True, slots=True)
class End:
    """How an answer ended.

    Attributes:
        finish_reason: ``stop`` or ``length``.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated.
    """

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """A part of an answer.

    Attributes:
        text: New text; may be empty while half a character, or half a stop string, is held back.
        token_ids: New tokens.
        log_probs: One for each new token, where they were asked for (natural logarithm).
        end: With the last part.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    end: End | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    model: str
    text: str
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    end: End


class GenerationService(Service):
    """Asks a generator."""

    task = "generation"
    scope = "generate"

    async def begin(self, call: Call, name: str | None, ask: Ask, field: str) -> Model:
        """Check what can be checked before the model is asked, and count the request.

        Raises:
            ApiError: The caller may not, the model is not there, a text or a limit forbids it.
        """
        return await self._admit(call, name, ask.texts, field)

    async def stream(self, call: Call, model: Model, ask: Ask) -> AsyncGenerator[Delta, None]:
        """The answer as it comes; :meth:`begin` came before. Leaving early cancels it on the server.

        Raises:
            ApiError: The model refused, or the stream broke; what came before stays valid.
        """
        request = generation_request(model.name, model.version, ask.fields(stream=True))
        responses = self._channel.stream(
            request, pool=model.pool, deadline=call.deadline, request_id=call.request_id
        )
        seen = 0
        end: End | None = None
        with Streaming(model.name, self.task) as answer:
            try:
                async with aclosing(responses):
                    async for response in responses:
                        delta = _delta(unpack_outputs(response))
                        answer.came(len(delta.token_ids))
                        seen += len(delta.token_ids)
                        end = delta.end
                        answer.complete = end is not None
                        yield delta
            finally:
                await self._count(call, model, end or End("cancelled", 0, seen))
            if end is None:
                raise ApiError("model_failed", f"{model.name} ended without an end", mend="try again")

    async def generate(self, call: Call, name: str | None, ask: Ask, field: str = "text") -> Answer:
        """The whole answer; the same greedy question may be answered from memory.

        Raises:
            ApiError: As for :meth:`begin` and :meth:`stream`.
        """
        model = await self.begin(call, name, ask, field)
        with Answering(model.name, self.task):
            return await self._answer(call, model, ask)

    async def _answer(self, call: Call, model: Model, ask: Ask) -> Answer:
        """Compute the answer, or take the one that is kept."""
        if not ask.deterministic:
            return await self._whole(call, model, ask)

        async def compute(_positions: list[int]) -> list[Answer]:
            return [await self._whole(call, model, ask)]

        owner = call.identity.subject if model.private else None
        question = json.dumps(ask.fields(stream=False), sort_keys=True)
        key = (model.name, model.version, owner, "generation", question)
        return (await self._answers.many([key], compute, deadline=call.deadline))[0]

    async def _whole(self, call: Call, model: Model, ask: Ask) -> Answer:
        request = generation_request(model.name, model.version, ask.fields(stream=False))
        deltas = [
            _delta(unpack_outputs(response))
            async for response in self._channel.stream(
                request, pool=model.pool, deadline=call.deadline, request_id=call.request_id
            )
        ]
        end = deltas[-1].end if deltas else None
        if end is None:
            raise ApiError("model_failed", f"{model.name} ended without an end", mend="try again")
        await self._count(call, model, end)
        return Answer(
            model.name,
            "".join(delta.text for delta in deltas),
            tuple(token for delta in deltas for token in delta.token_ids),
            tuple(value for delta in deltas for value in delta.log_probs),
            end,
        )

    async def _count(self, call: Call, model: Model, end: End) -> None:
        note_model(model.name, input_tokens=end.prompt_tokens, output_tokens=end.completion_tokens)
        if end.prompt_tokens:
            count_tokens(model.name, "prompt", end.prompt_tokens)
        count_tokens(model.name, "completion", end.completion_tokens)
        await self._limiter.charge(call, end.prompt_tokens + end.completion_tokens)


def _delta(outputs: Outputs) -> Delta:
    """One response; the facts of the end come with the last alone."""

    def numbers(name: str) -> tuple[Any, ...]:
        value: Any = outputs.get(name)
        return () if value is None else tuple(value.reshape(-1).tolist())

    def text(name: str) -> str:
        value: Any = outputs.get(name)
        return value[0].decode("utf-8", "replace") if value else ""

    reason = text("finish_reason")
    end = None
    if reason:
        end = End(reason, numbers("prompt_tokens")[0], numbers("completion_tokens")[0])
    return Delta(text("text_output"), numbers("token_ids"), numbers("log_probs"), end)
