"""Loads the model with transformers, from safetensors only, and refuses weights that are not all there."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from build_engines.model_files import ModelFiles
from tritonforge.errors import ModelFilesError
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
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # What it would warn of is checked below.
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    loader: Any = AutoModelForSequenceClassification if task == "classification" else AutoModel
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
            f"transformers cannot load the model: {_first_line(error)}",
            where=str(files.folder),
            mend="check config.json against the weights; models that need code of their own are not run",
        ) from error
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
    model.eval()
    model.requires_grad_(False)
    return model  # type: ignore[no-any-return]


def _some(names: list[str]) -> str:
    """The first few names, and how many more."""
    head = ", ".join(sorted(names)[:4])
    return head if len(names) <= 4 else f"{head} and {len(names) - 4} more"


def _first_line(error: Exception) -> str:
    """First line of an exception's text."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]
