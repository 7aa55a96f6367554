"""Loads a causal language model with transformers: from safetensors, or dequantized from GGUF."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from build_engines.model_files import ModelFiles
from tritonforge.errors import ExportError, ModelFilesError

_QUIET: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def load_causal(files: ModelFiles, attention: str) -> Any:
    """Load a model in float32, in evaluation mode.

    Args:
        files: The checked model folder.
        attention: ``eager`` for the reference, ``sdpa`` for the export.

    Raises:
        ModelFilesError: If transformers cannot make the model, or weights are missing.
        ExportError: If its attention has no form that can be exported.
    """
    _be_quiet()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            files.folder,
            attn_implementation=attention,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **_QUIET,
        )
        model, info = loaded
    except (ValueError, KeyError, OSError, RuntimeError, ImportError) as error:
        if attention == "sdpa" and "scaled_dot_product_attention" in str(error):
            raise ExportError(
                f"{files.config.get('model_type')} attends in a way of its own, and the engine pages scaled "
                "dot product attention only",
                where=str(files.folder),
                mend="use a family whose attention is plain: Llama, Qwen2, Qwen3, Mistral, Phi, GPT-2",
            ) from error
        raise ModelFilesError(
            f"transformers cannot load the model: {_first_line(error)}",
            where=str(files.folder),
            mend="check config.json against the weights; models that need code of their own are not run",
        ) from error
    lacking = sorted([*info["missing_keys"], *map(str, info.get("mismatched_keys", ()))])
    if lacking:
        raise ModelFilesError(
            f"{len(lacking)} weights are missing or of another shape: {', '.join(lacking[:4])}",
            where=str(files.folder),
            mend="fetch the weights again",
        )
    return _for_inference(model)


def dequantize_gguf(path: Path, folder: Path) -> None:
    """Write a GGUF file anew as safetensors in float16, with config and tokenizer.

    Raises:
        ModelFilesError: If transformers cannot read it.
    """
    _be_quiet()
    source: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name, **_QUIET}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar that cannot be switched off
            tokenizer: Any = AutoTokenizer.from_pretrained(**source)
            read: Any = AutoModelForCausalLM.from_pretrained(dtype=torch.float32, **source)
    except ImportError as error:
        raise ModelFilesError(
            f"GGUF cannot be read: {_first_line(error)}", where=str(path), mend="pip install gguf accelerate"
        ) from error
    except (
        Exception
    ) as error:  # a damaged file or an unknown family raises any class in gguf and transformers
        raise ModelFilesError(
            f"transformers cannot read this GGUF file: {_first_line(error)}",
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


def _for_inference(model: Any) -> Any:
    """No dropout, no gradients."""
    model.eval()
    model.requires_grad_(False)
    return model


def _be_quiet() -> None:
    """What transformers would warn of is checked here; its bars would tear the command's own."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    """First line of an exception's text."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]
