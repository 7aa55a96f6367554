"""Loads the model with transformers, from safetensors only, and refuses weights that are not all there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from build_engines.model_files import ModelFiles
from tritonforge.errors import ModelFilesError, first_line
from tritonforge.recipe import Task


def load_model(files: ModelFiles, task: Task, attention: str) -> PreTrainedModel:
    """Load a model in float32, in evaluation mode, pruned where ``files.pruned`` says so.

    Args:
        files: The checked model folder.
        task: Decides between the bare encoder and the one with a classification head.
        attention: Name of the attention implementation, ``eager`` for the reference.

    Raises:
        ModelFilesError: If transformers cannot make the model, or weights are missing.
    """
    loader = AutoModelForSequenceClassification if task == "classification" else AutoModel
    model, info = load_pretrained(loader, files, attention)
    # A bare encoder is saved without the pooler that AutoModel adds; it is not used here.
    missing = [
        key for key in info["missing_keys"] if task == "classification" or not key.startswith("pooler.")
    ]
    mismatched = [str(entry) for entry in info.get("mismatched_keys", ())]
    if missing or mismatched:
        what = f"weights are missing: {_some(missing)}" if missing else f"shapes differ: {_some(mismatched)}"
        raise ModelFilesError(
            what,
            where=str(files.folder),
            mend="fetch the weights again, or set the `task` they were made for",
        )
    if files.pruned is not None:
        from build_engines.prune import load_pruned

        load_pruned(model, files.pruned)
    return for_inference(model)


def load_pretrained(loader: Any, files: ModelFiles, attention: str) -> tuple[Any, Mapping[str, Any]]:
    """Have one of transformers' auto classes load a folder in float32.

    Returns:
        The model, and what ``output_loading_info`` tells: which weights are missing or of another shape.

    Raises:
        ModelFilesError: If transformers cannot make the model.
    """
    be_quiet()
    try:
        model, info = loader.from_pretrained(
            files.folder,
            attn_implementation=attention,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (ValueError, KeyError, OSError, RuntimeError, ImportError) as error:
        raise ModelFilesError(
            f"transformers cannot load the model: {first_line(error)}",
            where=str(files.folder),
            mend="check config.json against the weights; models that need code of their own are not run",
        ) from error
    return model, info


def be_quiet() -> None:
    """What transformers would warn of is checked here; its bars would tear the command's own."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library is untyped
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # the library is untyped


def for_inference(model: Any) -> PreTrainedModel:
    """No dropout, no gradients."""
    model.eval()
    model.requires_grad_(False)
    return model  # type: ignore[no-any-return]  # comes as Any


def _some(names: list[str]) -> str:
    """The first few names, and how many more."""
    head = ", ".join(sorted(names)[:4])
    return head if len(names) <= 4 else f"{head} and {len(names) - 4} more"
