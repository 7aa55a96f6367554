"""What the model itself says, by transformers in float32 with eager attention."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from build_engines.generation.answers import Ids
from build_engines.generation.fidelity import TOP, Float32Array, Int32Array, Reference
from build_engines.generation.load import load_causal
from build_engines.model_files import ModelFiles

_RIVALS = 8  # likeliest tokens of each step that are kept, to tell a near tie from an error


@torch.inference_mode()
def make_reference(
    files: ModelFiles, prompts: Sequence[Ids], tokens: int, stops: Sequence[int], texts: Sequence[Ids]
) -> Reference:
    """Answer the prompts greedily, and read the texts.

    Args:
        files: The model.
        prompts: Token ids to go on from.
        tokens: How far.
        stops: Tokens that end an answer.
        texts: Token ids to find likely.
    """
    model = load_causal(files, "eager")
    with warnings.catch_warnings():  # of argument names that change with transformers' versions
        warnings.simplefilter("ignore", FutureWarning)
        answers = [_answer(model, prompt, tokens, stops) for prompt in prompts]
        read = [_read(model, text) for text in texts]
    return Reference(
        prompts=list(prompts),
        rivals=[rivals for rivals, _ in answers],
        scores=[scores for _, scores in answers],
        texts=list(texts),
        chosen=np.concatenate([chosen for chosen, _, _ in read]),
        top_ids=np.concatenate([ids for _, ids, _ in read]),
        top_log_probs=np.concatenate([log_probs for _, _, log_probs in read]),
    )


def _answer(model: Any, prompt: Ids, tokens: int, stops: Sequence[int]) -> tuple[Int32Array, Float32Array]:
    """The likeliest tokens of each step and their logits, the best first, [steps, rivals]."""
    ids, cache = torch.from_numpy(prompt)[None], None
    rivals, scores = [], []
    for _ in range(tokens):
        output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = output.logits[0, -1].topk(_RIVALS)
        rivals.append(best.indices.numpy().astype(np.int32))
        scores.append(best.values.numpy())
        ids = best.indices[:1][None]
        if int(ids) in stops:
            break
    return np.stack(rivals), np.stack(scores)


def _read(model: Any, text: Ids) -> tuple[Float32Array, Int32Array, Float32Array]:
    """Log probability of each token after the first, and the likeliest in its place with theirs."""
    ids = torch.from_numpy(text)
    log_probs = model(input_ids=ids[None], use_cache=False).logits[0, :-1].log_softmax(-1)
    chosen = log_probs.gather(1, ids[1:, None])[:, 0].numpy()
    best = log_probs.topk(min(TOP, log_probs.shape[1]))
    return chosen, best.indices.numpy().astype(np.int32), best.values.numpy()
