"""Loads a causal language model with transformers: from safetensors, or dequantized from GGUF."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from build_engines.export.load import be_quiet, for_inference, load_pretrained
from build_engines.generation.source import GgufFile, find_generator
from build_engines.model_files import ModelFiles, find_model
from tritonforge.errors import ExportError, ModelFilesError, first_line


def load_causal(files: ModelFiles, attention: str) -> Any:
    """Load a model in float32, in evaluation mode.

    Args:
        files: The checked model folder.
        attention: ``eager`` for the reference, ``sdpa`` for the export.

    Raises:
        ModelFilesError: If transformers cannot make the model, or weights are missing.
        ExportError: If its attention has no form that can be exported.
    """
    try:
        model, info = load_pretrained(AutoModelForCausalLM, files, attention)
    except ModelFilesError as error:
        if attention == "sdpa" and "scaled_dot_product_attention" in str(error.__cause__):
            raise ExportError(
                f"{files.config.get('model_type')} attends in a way of its own, and the engine pages scaled "
                "dot product attention only",
                where=str(files.folder),
                mend="use a family whose attention is plain: Llama, Qwen2, Qwen3, Mistral, Phi, GPT-2",
            ) from error
        raise
    lacking = sorted([*info["missing_keys"], *map(str, info.get("mismatched_keys", ()))])
    if lacking:
        raise ModelFilesError(
            f"{len(lacking)} weights are missing or of another shape: {', '.join(lacking[:4])}",
            where=str(files.folder),
            mend="fetch the weights again",
        )
    return for_inference(model)


@contextmanager
def as_safetensors(source: str) -> Iterator[ModelFiles]:
    """The model that a recipe names, for as long as the context lasts; a GGUF file is dequantized for it.

    Raises:
        ModelFilesError: If nothing is there, or it is damaged.
    """
    files = find_generator(source)
    if not isinstance(files, GgufFile):
        yield files
        return
    with tempfile.TemporaryDirectory(prefix="tritonforge-") as scratch:
        dequantize_gguf(files.path, Path(scratch))
        yield find_model(scratch)


def dequantize_gguf(path: Path, folder: Path) -> None:
    """Write a GGUF file anew as safetensors in float16, with config and tokenizer.

    Raises:
        ModelFilesError: If transformers cannot read it.
    """
    be_quiet()
    source: dict[str, Any] = {
        "pretrained_model_name_or_path": path.parent,
        "gguf_file": path.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar that cannot be switched off
            tokenizer: Any = AutoTokenizer.from_pretrained(**source)
            read: Any = AutoModelForCausalLM.from_pretrained(dtype=torch.float32, **source)
    except ImportError as error:
        raise ModelFilesError(
            f"GGUF cannot be read: {first_line(error)}", where=str(path), mend="pip install gguf accelerate"
        ) from error
    except Exception as error:  # damaged files and unknown families raise any class there
        raise ModelFilesError(
            f"transformers cannot read this GGUF file: {first_line(error)}",
            where=str(path),
            mend="fetch the file again, or give the model's safetensors",
        ) from error
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config
    # Into a new model, as the one that was read counts as quantized and does not save.
    model = type(read)(read.config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
