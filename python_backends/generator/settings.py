"""Parameters of a generation model, from its ``config.pbtxt``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..settings import Parameters, SettingsError

ENGINES = ("openvino-genai", "tensorrt-llm")
BLOCK = 32
"""Tokens in a block of OpenVINO GenAI's KV cache on a CPU."""


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """The line in front of the engine, in the words of Triton's ``ModelQueuePolicy``.

    Attributes:
        max_size: Requests that may wait; more are turned away. 0: no bound.
        timeout_us: Microseconds that a request may wait. 0: for ever.
        timeout_action: ``reject`` answers a request whose time is over with an error; ``delay`` lets it go
            on once no other waits.
        allow_timeout_override: Whether a request may name a shorter or longer time of its own.
    """

    max_size: int = 0
    timeout_us: int = 0
    timeout_action: str = "reject"
    allow_timeout_override: bool = True


@dataclass(frozen=True, slots=True)
class GeneratorSettings:
    """Parameters of a generation model.

    Attributes:
        engine: One of :data:`ENGINES`.
        precision: Of the weights.
        compute: Numbers that the engine computes with: ``f32``, ``bf16`` or ``int8`` (activations).
        kv_cache_precision: ``f32``, ``f16`` or ``u8``.
        kv_cache_tokens: Tokens that the KV cache holds.
        max_num_seqs: Sequences generated at once.
        max_num_batched_tokens: Tokens in one step.
        max_length: Tokens of prompt and answer together.
        max_tokens: Tokens of an answer, where the request does not say.
        prefix_caching: Whether blocks of common prompt beginnings are kept.
        prompt_lookup_tokens: Tokens guessed from the prompt in each step; 0 is off.
        threads: Of the engine; 0 takes the physical cores.
        stop_token_ids: End-of-sequence tokens.
        add_special_tokens: Whether ``text_input`` gets the tokenizer's special tokens (BOS).
        max_text_bytes: Longest prompt accepted, in UTF-8 bytes.
        tensor_parallel: GPUs that share the model.
        queue: The line in front of the engine.
    """

    engine: str
    kv_cache_tokens: int
    max_length: int
    precision: str = "fp16"
    compute: str = "f32"
    kv_cache_precision: str = "f16"
    max_num_seqs: int = 32
    max_num_batched_tokens: int = 256
    max_tokens: int = 256
    prefix_caching: bool = True
    prompt_lookup_tokens: int = 0
    threads: int = 0
    stop_token_ids: tuple[int, ...] = ()
    add_special_tokens: bool = True
    max_text_bytes: int = 1 << 20
    tensor_parallel: int = 1
    queue: QueueSettings = QueueSettings()

    @classmethod
    def parse(cls, model_config: str | Mapping[str, Any]) -> GeneratorSettings:
        """Read the settings from a model configuration, JSON text or decoded.

        Raises:
            SettingsError: A parameter is missing or not allowed.
        """
        values = Parameters(model_config)
        if values.instances() != 1:
            raise SettingsError(
                values.model, "instance_group", "asks for several instances; one engine batches all requests"
            )
        return cls(
            engine=values.choice("engine", ENGINES),
            precision=values.text("precision", "fp16"),
            compute=values.choice("compute", ("f32", "bf16", "int8"), "f32"),
            kv_cache_precision=values.choice("kv_cache_precision", ("f32", "f16", "u8"), "f16"),
            kv_cache_tokens=values.integer("kv_cache_tokens", minimum=BLOCK),
            max_num_seqs=values.integer("max_num_seqs", minimum=1, default=32),
            max_num_batched_tokens=values.integer("max_num_batched_tokens", minimum=1, default=256),
            max_length=values.integer("max_length", minimum=2),
            max_tokens=values.integer("max_tokens", minimum=1, default=256),
            prefix_caching=values.flag("prefix_caching", True),
            prompt_lookup_tokens=values.integer("prompt_lookup_tokens", minimum=0, default=0),
            threads=values.integer("threads", minimum=0, default=0),
            stop_token_ids=_ids(values, "stop_token_ids"),
            add_special_tokens=values.flag("add_special_tokens", True),
            max_text_bytes=values.integer("max_text_bytes", minimum=1, default=1 << 20),
            tensor_parallel=values.integer("tensor_parallel", minimum=1, default=1),
            queue=QueueSettings(
                max_size=values.integer("queue_max_size", minimum=0, default=0),
                timeout_us=values.integer("queue_timeout_us", minimum=0, default=0),
                timeout_action=values.choice("queue_timeout_action", ("reject", "delay"), "reject"),
                allow_timeout_override=values.flag("allow_timeout_override", True),
            ),
        )


def _ids(values: Parameters, key: str) -> tuple[int, ...]:
    """A list of token ids, separated by commas."""
    text = values.text(key, ",")
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise SettingsError(values.model, key, f"is {text!r}; token ids and commas are needed") from None
