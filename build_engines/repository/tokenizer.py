"""Turns a model's tokenizer into one ``tokenizer.json`` that the Rust library reads alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from build_engines.model_files import ModelFiles
from build_engines.spec import ModelSpec
from tritonforge.errors import ModelFilesError, first_line

_VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


def load_fast_tokenizer(folder: Path) -> Any:
    """Load transformers' tokenizer of a model folder.

    Raises:
        ModelFilesError: If there is none, or none that the Rust library can run.
    """
    from transformers import AutoTokenizer

    # Without any of them transformers gives an empty tokenizer, to which every text is unknown.
    if not any(path for pattern in _VOCABULARY_FILES for path in folder.glob(pattern)):
        raise ModelFilesError(
            "there is no tokenizer", where=str(folder), mend="put tokenizer.json beside the weights"
        )
    try:
        loaded: Any = AutoTokenizer.from_pretrained(
            folder, use_fast=True, local_files_only=True, trust_remote_code=False
        )
        loaded.backend_tokenizer.to_str()
    except Exception as error:  # a damaged file makes transformers and tokenizers raise any class
        raise ModelFilesError(
            f"no fast tokenizer can be loaded: {first_line(error)}",
            where=str(folder),
            mend="put the model's tokenizer.json beside its weights",
        ) from error
    return loaded


def write_tokenizer(files: ModelFiles, spec: ModelSpec, path: Path) -> None:
    """Write the tokenizer as transformers would use it, without padding or truncation of its own.

    Raises:
        ModelFilesError: If there is none, or it knows more tokens than the model.
    """
    data = json.loads(load_fast_tokenizer(files.folder).backend_tokenizer.to_str())
    data["padding"] = None
    data["truncation"] = None
    if spec.lowercase:
        lower: dict[str, Any] = {"type": "Lowercase"}
        normalizer = data.get("normalizer")
        data["normalizer"] = {"type": "Sequence", "normalizers": [lower, normalizer]} if normalizer else lower
    text = json.dumps(data, ensure_ascii=False)
    largest = max(Tokenizer.from_str(text).get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= spec.vocab_size:
        raise ModelFilesError(
            f"the tokenizer gives ids up to {largest}, and the model embeds {spec.vocab_size}",
            where=str(files.folder),
            mend="use the tokenizer that the model was trained with",
        )
    path.write_text(text, encoding="utf-8")
