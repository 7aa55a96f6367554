"""Runs a model on packed batches, as a whole or layer by layer, and compares its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from build_engines.export.adapters import adapt, can_be_packed
from build_engines.export.load import load_model
from build_engines.export.modules import PackedModule
from build_engines.export.packed import ATTENTION_NAME, PackedLayout, packed_layout
from build_engines.model_files import ModelFiles
from build_engines.prune.sites import Site, find_layers, find_sites
from build_engines.spec import ModelSpec
from python_backends.packing import flatten, pack, plan_runs
from tritonforge.errors import PruningError

BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Batch:
    """One packed run.

    Attributes:
        rows: int64 [sequences], which of all sequences these are.
        inputs: Of the packed module.
        layout: Derived from them.
    """

    rows: NDArray[np.int64]
    inputs: dict[str, Tensor]
    layout: PackedLayout


def make_batches(sequences: Sequence[NDArray[np.int32]], tokens: int = BATCH_TOKENS) -> list[Batch]:
    """Pack sequences of like length together, in runs of so many tokens."""
    everything = flatten([ids[None] for ids in sequences])
    batches = []
    for rows in plan_runs(everything.lengths, tokens):
        inputs = {name: torch.from_numpy(np.array(value)) for name, value in pack(everything, rows).items()}
        batches.append(Batch(rows, inputs, PackedLayout.of(**inputs)))
    return batches


@dataclass(frozen=True)
class Subject:
    """A model in memory, in its packed form.

    Attributes:
        model: As loaded; its linear layers are those that run.
        module: Its packed form.
        spec: What it computes.
        sites: Where units can go.
        layers: The encoder's layers by their path in it.
    """

    model: PreTrainedModel
    module: PackedModule
    spec: ModelSpec
    sites: list[Site]
    layers: dict[str, nn.Module]

    @torch.no_grad()
    def outputs(self, batches: Sequence[Batch]) -> Tensor:
        """Embeddings or scores, float32 [sequences, width], in the order of the sequences."""
        found = torch.zeros(sum(len(batch.rows) for batch in batches), self.spec.width)
        for batch in batches:
            found[torch.from_numpy(batch.rows)] = self.module(**batch.inputs)
        return found


def load_subject(files: ModelFiles, spec: ModelSpec) -> Subject:
    """Load a dense model.

    Raises:
        PruningError: If its family is unknown or it cannot be packed.
    """
    model = load_model(files, spec.task, ATTENTION_NAME)
    sites, layers = find_sites(model), find_layers(model)
    if not can_be_packed(model):
        raise PruningError(
            "a model that cannot be packed cannot be pruned", where="prune", mend="set `prune.sparsity: 0`"
        )
    model.config.use_cache = False  # layers are run again and again
    if not model._supports_attention_backend:
        adapt(model)  # other adapters split projections for the export, and the file keeps them whole
    return Subject(model, PackedModule(model, spec).eval(), spec, sites, layers)


def distance(spec: ModelSpec, found: Tensor, wanted: Tensor) -> Tensor:
    """How far outputs are from the dense model's, float32 [sequences], 0 for the same.

    Embeddings: squared distance over the squared norm, which is 2 (1 - cosine) at unit length. Scores:
    the Kullback-Leibler divergence.
    """
    if spec.task == "embedding":
        return (found - wanted).square().sum(dim=1) / wanted.square().sum(dim=1).clamp_min(1e-12)
    tiny = torch.finfo(found.dtype).tiny
    divergence = wanted * (wanted.clamp_min(tiny).log() - found.clamp_min(tiny).log())
    if spec.activation == "sigmoid":
        rest, wanted_rest = (1 - found).clamp_min(tiny), (1 - wanted).clamp_min(tiny)
        divergence = divergence + wanted_rest * (wanted_rest.log() - rest.log())
    return divergence.sum(dim=1)


def accuracy(spec: ModelSpec, found: Tensor, wanted: Tensor) -> float:
    """Share of the dense model's accuracy that is left, 0 to 1.

    Embeddings: mean cosine. Scores: share of sequences with the same label, or with sigmoid of equal
    decisions at 0.5.
    """
    if spec.task == "embedding":
        return float(nn.functional.cosine_similarity(found, wanted, dim=1).mean().clamp(0, 1))
    if spec.activation == "sigmoid":
        return float(((found > 0.5) == (wanted > 0.5)).float().mean())
    return float((found.argmax(dim=1) == wanted.argmax(dim=1)).float().mean())


@dataclass
class Seen:
    """What one site's layers were given and gave in the last run.

    Attributes:
        inputs: float32 [tokens, features], what the output projection reads.
        outputs: float32 [tokens, hidden], what it gives.
        residual: float32 [tokens, hidden], the stream that this is added to.
    """

    inputs: Tensor
    outputs: Tensor
    residual: Tensor


@contextmanager
def watch(sites: Sequence[Site], take: Callable[[Site, Seen], None]) -> Iterator[None]:
    """Hand what passes through each site to ``take``, in every forward pass within the block."""
    residuals: dict[str, Tensor] = {}

    def note(site: Site, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        residuals[site.name] = _flat(args[0] if args else kwargs["hidden_states"])

    def hand_over(site: Site, args: tuple[Any, ...], result: Tensor) -> None:
        take(site, Seen(_flat(args[0]), _flat(result), residuals[site.name]))

    with ExitStack() as stack:
        for site in sites:
            before = site.residual.register_forward_pre_hook(
                lambda module, args, kwargs, site=site: note(site, args, kwargs), with_kwargs=True
            )
            after = site.output.register_forward_hook(
                lambda module, args, result, site=site: hand_over(site, args, result)
            )
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield


@dataclass(frozen=True)
class LayerCall:
    """How the encoder calls one of its layers, without the hidden states."""

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, hidden: Tensor, layout: PackedLayout, layer: nn.Module | None = None) -> Tensor:
        """Run the layer, or its counterpart in another model, on hidden states [1, tokens, hidden]."""
        with packed_layout(layout):
            result = (layer or self.layer)(hidden, *self.args, **self.kwargs)
        states: Tensor = result[0] if isinstance(result, tuple) else result
        return states


@torch.no_grad()
def layer_calls(subject: Subject, batch: Batch) -> tuple[Tensor, list[LayerCall]]:
    """Record how the encoder calls its layers, and what the first of them is given."""
    first: list[Tensor] = []
    calls: list[LayerCall] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if not first:
            first.append(hidden)
        rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        calls.append(LayerCall(module, args[1:], rest))

    with ExitStack() as stack:
        for layer in subject.layers.values():
            stack.callback(layer.register_forward_pre_hook(record, with_kwargs=True).remove)
        subject.module.hidden_states(batch.inputs["input_ids"], batch.layout)
    return first[0], calls


def _flat(states: Tensor) -> Tensor:
    """[1, tokens, features] to [tokens, features]."""
    return states.reshape(-1, states.shape[-1])
