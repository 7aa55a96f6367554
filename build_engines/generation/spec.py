"""How a generator is used: the recipe's `auto` values settled from what the model is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from build_engines.generation.facts import ModelFacts
from python_backends.generator.settings import BLOCK
from tritonforge.errors import RecipeError
from tritonforge.recipe import GeneratorEngine, Recipe

_CONTEXT_FALLBACK = 2048
_USUAL_LENGTH = 512  # tokens of prompt and answer, to size the KV cache by
_MIB = 1 << 20
BF16_HEAD = 32  # what an AMX tile takes of a row in bfloat16; seen with OpenVINO 2026.4


@dataclass(frozen=True)
class GeneratorSpec:
    """All that export, engine and config need to know of a generator.

    Attributes:
        facts: What the model is.
        max_length: Tokens of prompt and answer together, at most.
        max_tokens: Tokens of an answer where the request does not say.
        kv_precision: Of the KV cache.
        kv_bytes_per_token: Memory that one token takes in the KV cache.
        kv_cache_tokens: Tokens that the cache holds, whole blocks.
        notes: What was assumed or bounded.
    """

    facts: ModelFacts
    max_length: int
    max_tokens: int
    kv_precision: str
    kv_bytes_per_token: int
    kv_cache_tokens: int
    notes: tuple[str, ...] = field(default=())

    def figures(self) -> dict[str, Any]:
        """For reports."""
        facts = self.facts
        return {
            "architecture": facts.architecture,
            "context": facts.context,
            "max_length": self.max_length,
            "layers": facts.layers,
            "kv_heads": facts.kv_heads,
            "head_dim": facts.head_dim,
            "vocab_size": facts.vocab_size,
            "stop_token_ids": facts.stop_ids,
            "chat_template": facts.chat_template,
            "kv_precision": self.kv_precision,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "kv_cache_tokens": self.kv_cache_tokens,
            "kv_cache_mib": round(self.kv_cache_tokens * self.kv_bytes_per_token / _MIB, 1),
        }


def settle_generator(recipe: Recipe, facts: ModelFacts, engine: GeneratorEngine) -> GeneratorSpec:
    """Settle lengths, and precision and size of the KV cache.

    Raises:
        RecipeError: If the recipe asks for longer sequences than the model or the cache can hold, or for
            bfloat16 where the heads are too small.
    """
    if engine == "openvino-genai" and recipe.generation.compute == "bf16" and facts.head_dim < BF16_HEAD:
        raise RecipeError(
            f"OpenVINO computes heads of {BF16_HEAD} and more in bfloat16, and the model's have "
            f"{facts.head_dim}: on a processor with AMX the server would end with a division by zero",
            where="generation.compute",
            mend="leave it on f32",
        )
    notes: list[str] = []
    max_length = _max_length(recipe, facts, notes)
    precision = _kv_precision(recipe, engine)
    per_token = kv_bytes_per_token(facts, precision)
    max_tokens = min(recipe.generation.max_tokens, max_length // 2)
    if max_tokens < recipe.generation.max_tokens:
        notes.append(f"answers have {max_tokens} tokens where the request does not say: half of max_length")
    return GeneratorSpec(
        facts,
        max_length,
        max_tokens,
        precision,
        per_token,
        _cache_tokens(recipe, max_length, per_token),
        tuple(notes),
    )


def _kv_precision(recipe: Recipe, engine: GeneratorEngine) -> str:
    """The recipe's precision; on auto what keeps exact numbers exact."""
    asked = recipe.generation.kv_cache_precision
    if engine == "tensorrt-llm" and asked not in ("auto", "f16"):
        raise RecipeError(
            f"tensorrt-llm caches in the 16 bits of the model, not in {asked}",
            where="generation.kv_cache_precision",
            mend="leave it on auto",
        )
    if asked != "auto":
        return asked
    return "f32" if engine == "openvino-genai" and recipe.generation.compute == "f32" else "f16"


def kv_bytes_per_token(facts: ModelFacts, precision: str) -> int:
    """Keys and values of all layers; u8 has a scale and a zero point in float32 beside each head's."""
    head = {"f32": 4 * facts.head_dim, "f16": 2 * facts.head_dim, "u8": facts.head_dim + 8}[precision]
    return 2 * facts.layers * facts.kv_heads * head


def _max_length(recipe: Recipe, facts: ModelFacts, notes: list[str]) -> int:
    """The recipe's length, or the model's; never beyond what the exported graph is right for."""
    limit, reason = facts.context, "it has positions for no more"
    for why, length in facts.limits.items():
        if limit is None or length < limit:
            limit, reason = length, why
    if recipe.max_length != "auto":
        if limit is not None and recipe.max_length > limit:
            raise RecipeError(
                f"{recipe.max_length} tokens, and the model can be served up to {limit}: {reason}",
                where="max_length",
                mend=f"set max_length to {limit} or less",
            )
        return recipe.max_length
    if limit is None:
        notes.append(f"the model names no context length: {_CONTEXT_FALLBACK} tokens assumed")
        return _CONTEXT_FALLBACK
    if limit != facts.context:
        notes.append(f"served up to {limit} of {facts.context} tokens: {reason}")
    return limit


def _cache_tokens(recipe: Recipe, max_length: int, per_token: int) -> int:
    """Whole blocks of KV cache, enough for one sequence of the longest kind at least."""
    settings = recipe.generation
    needed = -(-max_length // BLOCK) * BLOCK
    if settings.kv_cache_mib == "auto":
        return max(settings.max_num_seqs * _USUAL_LENGTH, needed)
    tokens = settings.kv_cache_mib * _MIB // per_token // BLOCK * BLOCK
    if tokens < needed:
        least = -(-needed * per_token // _MIB)
        raise RecipeError(
            f"{settings.kv_cache_mib} MiB hold {tokens} tokens, and one sequence may have {max_length}",
            where="generation.kv_cache_mib",
            mend=f"give {least} MiB or more, or lower max_length",
        )
    return tokens
