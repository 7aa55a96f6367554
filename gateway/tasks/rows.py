"""Models that answer each text with one row: what embedding and classification share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.errors import ApiError
from gateway.metrics import SERVER_DURATION, Answering, child, count_tokens, exemplar
from gateway.tasks.call import Call
from gateway.tasks.service import Service
from gateway.tracing import note_model
from gateway.triton.models import Model
from gateway.triton.tensors import text_request, unpack_outputs

TOKEN_COUNT = "token_count"


@dataclass(frozen=True, slots=True)
class Row:
    """What a model says of one text.

    Attributes:
        values: FP32 [width]: the vector, or the scores in the order of the labels.
        tokens: Tokens of the text as the model read it (cut at its longest); 0 where it cannot tell.
    """

    values: NDArray[np.float32]
    tokens: int

    def owned(self) -> Row:
        """This row without the rest of the batch, whose memory a view would hold."""
        values = self.values.copy()
        values.flags.writeable = False
        return Row(values, self.tokens)


@dataclass(frozen=True, slots=True)
class Rows:
    """Answers to the texts of one request, in their order."""

    model: Model
    rows: tuple[Row, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        return sum(row.tokens for row in self.rows)


class RowService(Service):
    """Asks an encoder."""

    output: str
    """FP32 output [b, width] to ask for."""

    async def rows(self, call: Call, name: str | None, texts: Sequence[str], field: str) -> Rows:
        """Answer each text.

        Args:
            call: Who asks, and until when.
            name: The model; None where one alone does this.
            texts: At least one.
            field: Where the caller wrote the texts, for messages.

        Raises:
            ApiError: The caller may not, the model is not there, a limit is reached, or no answer came.
        """
        model = await self._admit(call, name, texts, field)

        async def compute(positions: list[int]) -> list[Row]:
            return await self._ask(call, model, [texts[position] for position in positions])

        owner = call.identity.subject if model.private else None
        keys: list[Hashable] = [(model.name, model.version, owner, self.output, text) for text in texts]
        with Answering(model.name, self.task):
            rows = Rows(model, tuple(await self._answers.many(keys, compute, deadline=call.deadline)))
        note_model(model.name, input_tokens=rows.tokens)
        if rows.tokens:
            count_tokens(model.name, "prompt", rows.tokens)
            await self._limiter.charge(call, rows.tokens)
        return rows

    async def _ask(self, call: Call, model: Model, texts: list[str]) -> list[Row]:
        """Ask the server, in as many requests as its largest batch demands."""
        size = model.max_batch_size or len(texts)
        if len(texts) <= size:
            return await self._ask_once(call, model, texts)
        chunks = [texts[start : start + size] for start in range(0, len(texts), size)]
        parts = await asyncio.gather(*(self._ask_once(call, model, chunk) for chunk in chunks))
        return [row for part in parts for row in part]

    async def _ask_once(self, call: Call, model: Model, texts: list[str]) -> list[Row]:
        names = [self.output, TOKEN_COUNT] if model.counts_tokens else [self.output]
        request = text_request(model.name, model.version, texts, names)
        start = time.perf_counter()
        response = await self._channel.infer(
            request, pool=model.pool, deadline=call.deadline, request_id=call.request_id
        )
        child(SERVER_DURATION, model.name).observe(time.perf_counter() - start, exemplar())
        outputs: dict[str, Any] = dict(unpack_outputs(response))
        values = outputs[self.output]
        if len(values) != len(texts):
            raise ApiError("model_failed", f"{model.name} answered {len(values)} rows to {len(texts)} texts")
        counts = outputs[TOKEN_COUNT][:, 0].tolist() if model.counts_tokens else [0] * len(texts)
        return [Row(row, count) for row, count in zip(values, counts, strict=True)]
