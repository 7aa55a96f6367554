"""Short distillation: the pruned model learns the dense one's layers and outputs on the calibration text.

The loss is that of layer-wise distillation (TinyBERT, Jiao et al. 2020, equation 8, without projections,
since the hidden width stays): per layer the mean squared difference over the dense layer's variance, plus
the distance of the outputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from build_engines.prune.running import Subject, distance, make_batches

_TOKENS = 1024  # of a step
_WARM_UP = 0.1  # share of the steps
_REPORTS = 10


@dataclass(frozen=True)
class Training:
    """How the pruned model is trained.

    Attributes:
        steps: Of AdamW, each on one batch of texts of like length.
        learning_rate: At its highest, after a linear warm-up; then linear to 0.
        seed: Of the batches and their order.
    """

    steps: int
    learning_rate: float = 5e-5
    seed: int = 0


def distill(
    dense: Subject,
    pruned: Subject,
    sequences: Sequence[NDArray[np.int32]],
    training: Training,
    progress: Callable[[str], None],
) -> list[float]:
    """Train the encoder's layers of the pruned model; embeddings and heads stay.

    Args:
        dense: The teacher.
        pruned: Trained in place.
        sequences: int32 [n] each.
        training: Steps, rate, seed.
        progress: Called with the loss and the time left, ten times.

    Returns:
        The loss of each step.
    """
    layers = list(pruned.layers.values())
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, training.steps))
    losses: list[float] = []
    start = time.perf_counter()
    for inputs in _batches(sequences, training):
        loss = _loss(dense, pruned, inputs)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # the library is untyped
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        done = len(losses)
        if done % max(1, training.steps // _REPORTS) == 0 or done == 3:
            left = (time.perf_counter() - start) / done * (training.steps - done)
            progress(
                f"distillation step {done} of {training.steps}, loss {loss.item():.4f}, {left:.0f} s left"
            )
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None
    return losses


def _rate(step: int, steps: int) -> float:
    """Share of the learning rate: a linear rise, then a linear fall."""
    warm = max(1, math.ceil(_WARM_UP * steps))
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm), 1.0)


def _batches(sequences: Sequence[NDArray[np.int32]], training: Training) -> Iterator[dict[str, Tensor]]:
    """So many batches, shuffled anew in each epoch; texts of like length together."""
    rng = np.random.default_rng(training.seed)
    step = 0
    while step < training.steps:
        # Another half of the texts each time, so that the company in a batch changes.
        chosen = rng.permutation(len(sequences))[: max(1, math.ceil(len(sequences) / 2))]
        batches = make_batches([sequences[i] for i in chosen], _TOKENS)
        for number in rng.permutation(len(batches))[: training.steps - step]:
            yield batches[number].inputs
            step += 1


def _loss(dense: Subject, pruned: Subject, inputs: dict[str, Tensor]) -> Tensor:
    """Mean over layers of the relative squared difference, plus the distance of the outputs."""
    with torch.no_grad(), _layer_outputs(dense) as wanted:
        output = dense.module(**inputs)
    with _layer_outputs(pruned) as found:
        distances = distance(dense.spec, pruned.module(**inputs), output)
    hidden = [
        nn.functional.mse_loss(mine, theirs) / theirs.var().clamp_min(1e-12)
        for mine, theirs in zip(found, wanted, strict=True)
    ]
    return torch.stack(hidden).mean() + distances.mean()


@contextmanager
def _layer_outputs(subject: Subject) -> Iterator[list[Tensor]]:
    """Collect what the layers give in the forward passes within the block."""
    collected: list[Tensor] = []

    def collect(module: nn.Module, args: object, result: Tensor | tuple[Tensor, ...]) -> None:
        collected.append(result[0] if isinstance(result, tuple) else result)

    with ExitStack() as stack:
        for layer in subject.layers.values():
            stack.callback(layer.register_forward_hook(collect).remove)
        yield collected
