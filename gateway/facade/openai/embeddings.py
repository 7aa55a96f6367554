"""``POST /v1/embeddings``."""

from __future__ import annotations

import binascii
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import ApiError
from gateway.facade.bodies import ModelName, StrictRoute, check_texts, json_response
from gateway.facade.openai.answers import EmbeddingAnswer
from gateway.facade.openai.fields import OpenAIBody, TextOrTexts
from gateway.facade.state import call_of, facade_of

router = APIRouter(route_class=StrictRoute)


class EmbeddingBody(OpenAIBody):
    """Texts to embed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "minilm", "input": ["a cat", "a dog"], "dimensions": 64}]}
    )

    model: ModelName
    input: TextOrTexts = Field(description="a text, or a list of them; token arrays are refused")
    encoding_format: Literal["float", "base64"] | None = Field(
        default="float", description="base64: float32, little endian"
    )
    dimensions: int | None = Field(
        default=None, ge=1, description="the first so many numbers, scaled to length 1 again"
    )
    user: str | None = Field(default=None, description="accepted, not used")


@router.post("/v1/embeddings", summary="Vectors of texts", responses={200: {"model": EmbeddingAnswer}})
async def embeddings(request: Request, body: EmbeddingBody) -> Response:
    """As OpenAI's endpoint of that name."""
    facade, call = facade_of(request), call_of(request)
    check_texts(body.input, facade.config.limits, "input")
    if body.dimensions is not None:
        model = await facade.models.find(body.model, "embedding")
        if model.width is not None and body.dimensions > model.width:
            raise ApiError(
                "invalid_value",
                f"{model.name} gives {model.width} numbers, not {body.dimensions}",
                field="dimensions",
                mend=f"ask for at most {model.width}",
            )
    rows, vectors = await facade.embedding.embed(call, body.model, body.input, "input")
    if body.dimensions is not None:
        vectors = shortened(vectors, body.dimensions)
    values: Any = vectors
    if body.encoding_format == "base64":
        values = [
            binascii.b2a_base64(row, newline=False).decode() for row in vectors.astype("<f4", copy=False)
        ]
    return json_response(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": value}
                for index, value in enumerate(values)
            ],
            "model": rows.model.name,
            "usage": {"prompt_tokens": rows.tokens, "total_tokens": rows.tokens},
        },
        call,
    )


def shortened(vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """The first numbers of each vector, scaled to length 1; a vector of zeros stays so.

    Args:
        vectors: FP32 [texts, width].
        dimensions: How many to keep; at most the width.

    Returns:
        FP32 [texts, dimensions].
    """
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.ascontiguousarray(cut / np.where(lengths > 0, lengths, 1), dtype=np.float32)
