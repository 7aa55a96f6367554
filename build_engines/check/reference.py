"""The reference: transformers' own eager forward pass, one text at a time, without any padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from build_engines.export.modules import activate, pool_padded
from build_engines.spec import ModelSpec


def reference_outputs(
    model: PreTrainedModel, spec: ModelSpec, sequences: Sequence[NDArray[np.int32]]
) -> NDArray[np.float32]:
    """Run the model on each sequence alone.

    Args:
        model: Loaded with ``eager`` attention.
        spec: Pooling, normalization and activation.
        sequences: int32 [n] each.

    Returns:
        float32 [sequences, width]: embeddings or scores.
    """
    return np.stack([_one(model, spec, ids) for ids in sequences])


@torch.inference_mode()
def reference_hidden(model: PreTrainedModel, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Token vectors of one sequence before pooling, float32 [n, hidden]."""
    hidden: NDArray[np.float32] = model.base_model(**_inputs(ids))[0][0].numpy()
    return hidden


@torch.inference_mode()
def _one(model: PreTrainedModel, spec: ModelSpec, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Output for one sequence, float32 [width]."""
    inputs = _inputs(ids)
    output = model(**inputs)
    if spec.task == "classification":
        result: torch.Tensor = activate(output.logits, spec.activation)[0]
    else:
        result = pool_padded(output[0], inputs["attention_mask"], spec.pooling)[0]
        if spec.normalize:
            result = torch.nn.functional.normalize(result, dim=-1)
    array: NDArray[np.float32] = result.numpy()
    return array


def _inputs(ids: NDArray[np.int32]) -> dict[str, torch.Tensor]:
    """A batch of one, nothing masked."""
    tokens = torch.from_numpy(ids.astype(np.int64))[None]
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
