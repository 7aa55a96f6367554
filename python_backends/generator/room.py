"""How many tokens an answer may have: what was asked for, if there is room for it."""

from __future__ import annotations

from dataclasses import replace

from .protocol import SamplingParams
from .request import BadRequestError, GenerationRequest
from .settings import GeneratorSettings


def settle_max_tokens(
    asked: GenerationRequest, prompt_tokens: int, settings: GeneratorSettings, kv_tokens: int
) -> SamplingParams:
    """Fill in ``max_tokens``, or say why it cannot be.

    Without a wish the answer gets the model's default, or the room that the prompt leaves if that is less.

    Args:
        asked: The request.
        prompt_tokens: Tokens of its prompt.
        settings: Context length, and the default.
        kv_tokens: Tokens that the KV cache holds; the engine drops a sequence that can never fit.

    Raises:
        BadRequestError: Prompt and answer do not fit the context, or the KV cache.
    """
    room = min(settings.max_length, kv_tokens) - prompt_tokens
    limit = f"the context of {settings.max_length} tokens"
    if kv_tokens < settings.max_length:
        limit = f"the KV cache of {kv_tokens} tokens (raise generation.kv_cache_mib)"
    if room < 1:
        raise BadRequestError(
            f"the prompt's {prompt_tokens} tokens leave no room for an answer in {limit}; shorten it"
        )
    if asked.max_tokens is not None and asked.max_tokens > room:
        raise BadRequestError(
            f"max_tokens is {asked.max_tokens}, and the prompt's {prompt_tokens} tokens leave room for "
            f"{room} in {limit}; ask for less, or shorten the prompt"
        )
    max_tokens = asked.max_tokens or min(settings.max_tokens, room)
    return replace(asked.params, max_tokens=max_tokens, min_tokens=min(asked.params.min_tokens, max_tokens))
