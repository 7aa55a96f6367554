"""ModelService: what its three methods do."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import Message

from gateway.errors import ApiError
from gateway.facade.grpc.boundary import Context, Unreadable, reader_of, rpc
from gateway.facade.grpc.errors import status_of
from gateway.facade.grpc.sampling import ask_of, check_name
from gateway.facade.grpc.tasks import TASKS, Outcome, finish_reason
from gateway.facade.state import Facade
from gateway.proto import model_service_pb2 as pb
from gateway.tasks.call import Call

SERVICE = pb.DESCRIPTOR.services_by_name["ModelService"].full_name


class ModelService:
    """Serves the methods of ``model_service.proto``.

    Args:
        facade: The services behind.
    """

    def __init__(self, facade: Facade) -> None:
        """Take the services."""
        self._facade = facade
        self._config = facade.config

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods, for a server; messages that are none reach them as :class:`Unreadable`."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        kinds: dict[str, tuple[Any, Any, type[Message], type[Message]]] = {
            "Predict": (unary, self.predict, pb.PredictRequest, pb.PredictResponse),
            "StreamPredict": (
                stream,
                self.stream_predict,
                pb.StreamPredictRequest,
                pb.StreamPredictResponse,
            ),
            "BatchPredict": (unary, self.batch_predict, pb.BatchPredictRequest, pb.BatchPredictResponse),
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: handler(method, reader_of(asked), answered.SerializeToString)
                for name, (handler, method, asked, answered) in kinds.items()
            },
        )

    async def predict(self, request: pb.PredictRequest | Unreadable, context: Context) -> pb.PredictResponse:
        """One input, its whole answer."""
        async with rpc("Predict", request, context, self._config) as at:
            assert isinstance(request, pb.PredictRequest)
            task = _task(request)
            question: Any = TASKS[task].read(request, self._config.limits, "")
            (outcome,) = await TASKS[task].answer(
                self._facade, at.call, _model(request.model), [question], [""]
            )
            if isinstance(outcome, ApiError):
                raise outcome
            outcome.latency_ms = at.latency_ms
            return outcome
        raise AssertionError("an abort raises")

    async def stream_predict(self, request: pb.StreamPredictRequest | Unreadable, context: Context) -> None:
        """One input, its answer as it comes; a slow reader makes the writes wait, and so the server."""
        async with rpc("StreamPredict", request, context, self._config, streams=True) as at:
            assert isinstance(request, pb.StreamPredictRequest)
            _task(request)
            ask = ask_of(request.generation, self._config.limits, "generation")
            generation = self._facade.generation
            model = await generation.begin(at.call, _model(request.model), ask, "generation")
            name = model.name
            async with aclosing(generation.stream(at.call, model, ask)) as deltas:
                async for delta in deltas:
                    part = pb.GenerationDelta(
                        text=delta.text, token_ids=delta.token_ids, log_probs=delta.log_probs
                    )
                    response = pb.StreamPredictResponse(model=name, generation=part)
                    name = ""
                    if delta.end is not None:
                        response.generation.finish_reason = finish_reason(delta.end.finish_reason)
                        response.usage.input_tokens = delta.end.prompt_tokens
                        response.usage.output_tokens = delta.end.completion_tokens
                        response.latency_ms = at.latency_ms
                    await context.write(response)

    async def batch_predict(
        self, request: pb.BatchPredictRequest | Unreadable, context: Context
    ) -> pb.BatchPredictResponse:
        """Many inputs, an answer or an error to each."""
        async with rpc("BatchPredict", request, context, self._config) as at:
            assert isinstance(request, pb.BatchPredictRequest)
            response = pb.BatchPredictResponse()
            for outcome in await self._outcomes(request, at.call):
                answer = response.answers.add()
                if isinstance(outcome, ApiError):
                    answer.error.CopyFrom(status_of(outcome))
                else:
                    answer.response.CopyFrom(outcome)
                    response.usage.input_tokens += outcome.usage.input_tokens
                    response.usage.output_tokens += outcome.usage.output_tokens
            response.latency_ms = at.latency_ms
            return response
        raise AssertionError("an abort raises")

    async def _outcomes(self, request: pb.BatchPredictRequest, call: Call) -> list[Outcome]:
        """Inputs of one task for one model are asked together, and the groups at the same time."""
        count, most = len(request.requests), self._config.limits.max_texts
        if count == 0:
            raise ApiError("missing_field", "there is no request", field="requests", mend="give at least one")
        if count > most:
            raise ApiError(
                "invalid_value",
                f"{count} requests, and {most} are allowed",
                field="requests",
                mend="send them in several batches",
            )
        default = _model(request.model)
        outcomes: dict[int, Outcome] = {}
        groups: dict[tuple[str, str | None], list[tuple[int, Any]]] = defaultdict(list)
        for position, one in enumerate(request.requests):
            field = f"requests.{position}."
            try:
                task = _task(one, field)
                question = TASKS[task].read(one, self._config.limits, field)
                groups[task, _model(one.model, field) or default].append((position, question))
            except ApiError as error:
                outcomes[position] = error

        async def ask(task: str, model: str | None, items: list[tuple[int, Any]]) -> None:
            positions = [position for position, _ in items]
            fields = [f"requests.{position}." for position in positions]
            try:
                found = await TASKS[task].answer(
                    self._facade, call, model, [question for _, question in items], fields
                )
            except ApiError as error:
                found = [error] * len(items)
            outcomes.update(zip(positions, found, strict=True))

        async with asyncio.TaskGroup() as group:
            for (task, model), items in groups.items():
                group.create_task(ask(task, model, items))
        return [outcomes[position] for position in range(count)]


def _task(request: pb.PredictRequest | pb.StreamPredictRequest, field: str = "") -> str:
    """Which input was set."""
    task = request.WhichOneof("input")
    if task is None:
        fields = ", ".join(field.name for field in request.DESCRIPTOR.oneofs_by_name["input"].fields)
        raise ApiError(
            "missing_field", "there is no input", field=f"{field}input", mend=f"set one of: {fields}"
        )
    return str(task)


def _model(name: str, field: str = "") -> str | None:
    check_name(name, f"{field}model")
    return name or None
