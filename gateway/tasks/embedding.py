"""Embedding: a vector for each text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.tasks.call import Call
from gateway.tasks.rows import Rows, RowService


class EmbeddingService(RowService):
    """Vectors of texts."""

    task = "embedding"
    scope = "embed"
    output = "embedding"

    async def embed(
        self, call: Call, name: str | None, texts: Sequence[str], field: str = "text"
    ) -> tuple[Rows, NDArray[np.float32]]:
        """Embed texts.

        Returns:
            The answers, and their vectors as FP32 [texts, width].

        Raises:
            ApiError: As for :meth:`RowService.rows`.
        """
        rows = await self.rows(call, name, texts, field)
        vectors = [row.values for row in rows.rows]
        return rows, vectors[0][None] if len(vectors) == 1 else np.stack(vectors)
