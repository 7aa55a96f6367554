"""What to load, how hard, and for how long."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Form(StrEnum):
    """Whose names generation requests use; the last two are written as genai-perf 0.0.16 writes them."""

    OWN = "own"
    VLLM = "vllm"
    TENSORRT_LLM = "tensorrtllm"


class Plan(BaseModel):
    """One run of perf_analyzer for each level.

    Attributes:
        model: The model to load.
        url: ``host:port`` of tritonserver, or of a gateway that asks for no token.
        protocol: ``grpc`` or ``http``; answers stream over gRPC only.
        kind: What levels count: ``concurrency`` (requests in flight, a closed loop), or requests a second
            that arrive evenly (``request_rate``) or at random (``poisson``), whether answered or not.
        levels: How many; measured in this order.
        duration_s: Seconds measured at each level.
        warm_up_s: Seconds of load before that; for streams also after it, so that the tokens of answers
            still in flight count.
        length_mix: Lengths of the texts, as :meth:`loadtest.corpus.LengthMix.parse` reads them; None: the
            recipe's default, or :data:`loadtest.corpus.PROMPT_MIX` for prompts.
        texts_file: Texts to send instead, one a line.
        texts: How many different texts of a mix are sent, in turn.
        seed: The same seed sends the same texts.
        texts_per_request: Of encoders.
        tokens: Of each answer of a generator, neither more nor fewer.
        form: Of requests to a generator.
        shared_memory: Where inputs and outputs of an encoder lie; ``system`` and ``cuda`` want the server
            on this machine.
        output_bytes: Of one text in shared memory, for each output of variable size: strings.
        stability_percent: How much the thirds of a level may differ to be called stable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    url: str = Field(min_length=1)
    protocol: Literal["grpc", "http"] = "grpc"
    kind: Literal["concurrency", "request_rate", "poisson"] = "concurrency"
    levels: tuple[float, ...] = Field(default=(1, 4, 16, 64), min_length=1)
    duration_s: float = Field(default=10.0, gt=0)
    warm_up_s: float = Field(default=1.0, ge=0)
    length_mix: str | None = None
    texts_file: Path | None = None
    texts: int = Field(default=1000, ge=1)
    seed: int = 0
    texts_per_request: int = Field(default=1, ge=1)
    tokens: int = Field(default=64, ge=1)
    form: Form = Form.OWN
    shared_memory: Literal["none", "system", "cuda"] = "none"
    output_bytes: int = Field(default=4096, ge=1)
    stability_percent: float = Field(default=20.0, gt=0)
