"""What a causal language model is, read from its config by transformers; no weights are loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from build_engines.model_files import ModelFiles
from tritonforge.errors import ModelFilesError, first_line

_CAUSAL = ("ForCausalLM", "LMHeadModel")
_PLAIN_LAYERS = {"full_attention", "sliding_attention", "attention"}
# These scale positions by the length that they are asked for, which a traced graph fixes.
_ROPE_BY_LENGTH = {"dynamic", "longrope"}


@dataclass(frozen=True)
class ModelFacts:
    """A causal language model as its own files describe it.

    Attributes:
        model_type: transformers' name of the family.
        architecture: transformers' class.
        vocab_size: Rows of the embedding table.
        layers: Layers with a KV cache.
        kv_heads: Key and value heads of each.
        head_dim: Width of a head.
        context: Tokens of the longest sequence, None where the files name none.
        limits: Shorter lengths up to which the exported graph is right, by reason.
        stop_ids: End-of-sequence tokens.
        chat_template: Whether messages can be rendered.
    """

    model_type: str
    architecture: str
    vocab_size: int
    layers: int
    kv_heads: int
    head_dim: int
    context: int | None
    limits: dict[str, int]
    stop_ids: list[int]
    chat_template: bool

    def as_dict(self) -> dict[str, Any]:
        """Values that fit JSON."""
        return asdict(self)


def read_facts(files: ModelFiles) -> ModelFacts:
    """Read a model folder's config and tokenizer.

    Raises:
        ModelFilesError: If it is no causal language model that transformers knows, or has no tokenizer.
    """
    config = _config(files)
    architecture = _architecture(files, config)
    where = str(files.folder / "config.json")
    kinds = set(getattr(config, "layer_types", None) or ()) - _PLAIN_LAYERS
    if kinds:
        raise ModelFilesError(
            f"layers of kind {', '.join(sorted(kinds))} keep no keys and values, which the engines page",
            where=where,
            mend="use a model whose layers are all attention",
        )
    heads = int(config.num_attention_heads)
    tokenizer = _tokenizer(files)
    return ModelFacts(
        model_type=config.model_type,
        architecture=architecture,
        vocab_size=int(config.vocab_size),
        layers=int(config.num_hidden_layers),
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        context=_integer(getattr(config, "max_position_embeddings", None)),
        limits=_limits(config),
        stop_ids=_stop_ids(files, config, tokenizer),
        chat_template=bool(tokenizer.chat_template),
    )


def _config(files: ModelFiles) -> Any:
    """The config, by its own class of transformers."""
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError, AttributeError) as error:
        raise ModelFilesError(
            f"transformers does not know this model: {first_line(error)}",
            where=str(files.folder / "config.json"),
            mend="use a family that transformers has; models that need code of their own are not run",
        ) from error
    return config


def _architecture(files: ModelFiles, config: Any) -> str:
    """The class in transformers, which must be a decoder with a language-model head."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    named = [str(name) for name in files.config.get("architectures") or ()]
    architecture = next((name for name in named if name.endswith(_CAUSAL)), None)
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if getattr(config, "is_encoder_decoder", False):
        what = f"{named or config.model_type} is an encoder-decoder"
    elif architecture is None or known is None:
        what = f"{named or config.model_type} is not a causal language model"
    elif architecture != known:
        what = f"transformers has no {architecture}; its {config.model_type} is {known}"
    else:
        return architecture
    raise ModelFilesError(
        what,
        where=str(files.folder / "config.json"),
        mend="give a ...ForCausalLM model of a family that transformers has (Llama, Qwen, Mistral, GPT-2)",
    )


def _limits(config: Any) -> dict[str, int]:
    """Lengths beyond which attention or positions change, by what changes."""
    found = {}
    window = _integer(getattr(config, "sliding_window", None))
    slides = getattr(config, "layer_types", None)
    if window and (slides is None or "sliding_attention" in slides):
        found["its attention slides over a window"] = window
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    if any(part.get("rope_type") in _ROPE_BY_LENGTH for part in kinds):
        originals = [part.get("original_max_position_embeddings") for part in kinds]
        original = next((int(length) for length in originals if length), None)
        original = original or _integer(getattr(config, "original_max_position_embeddings", None))
        found["its positions are scaled beyond it"] = original or int(config.max_position_embeddings)
    return found


def _tokenizer(files: ModelFiles) -> Any:
    """The tokenizer as transformers loads it, which must be a fast one with a vocabulary of its own."""
    from build_engines.repository.tokenizer import load_fast_tokenizer

    return load_fast_tokenizer(files.folder)


def _stop_ids(files: ModelFiles, config: Any, tokenizer: Any) -> list[int]:
    """What ends an answer: as generation_config.json says, or else config.json, and the tokenizer's own."""
    generation = files.read_json("generation_config.json") or {}
    named = generation.get("eos_token_id")
    named = getattr(config, "eos_token_id", None) if named is None else named
    found = [*named] if isinstance(named, list) else [named]
    found.append(tokenizer.eos_token_id)  # an instruct model's end of turn may stand here only
    return list(dict.fromkeys(int(token) for token in found if token is not None))


def _integer(value: Any) -> int | None:
    """A positive number, or None."""
    return int(value) if isinstance(value, int | float) and 0 < value < 1e9 else None
