"""The two shapes of the graph that is exported: packed, and padded for models that cannot be packed."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from build_engines.export.packed import PackedLayout, packed_layout
from build_engines.spec import ModelSpec


class PackedModule(nn.Module):
    """A model on packed runs.

    Inputs are ``input_ids`` int32 [tokens], ``cu_seqlens`` int32 [sequences + 1] and ``max_seqlen``
    int32 [longest] (only its shape counts); the output is float32 [sequences, width].

    Attributes:
        marked: Whether the layout's marks follow as outputs, for an export to name.
    """

    marked = False

    def __init__(self, model: PreTrainedModel, spec: ModelSpec) -> None:
        """Split the head from the encoder; ``model`` must use packed attention."""
        super().__init__()
        self.spec = spec
        self.encoder: Any = model.base_model
        self.head: PreTrainedModel | None = None
        if spec.task == "classification":
            stand_in = _EncoderStandIn(self.encoder)
            setattr(model, model.base_model_prefix, stand_in)
            self.head = model
            self.stand_in = stand_in
        parameters = inspect.signature(self.encoder.forward).parameters
        self._takes_token_types = "token_type_ids" in parameters
        self._padding_idx = _position_padding(self.encoder)

    def forward(
        self, input_ids: Tensor, cu_seqlens: Tensor, max_seqlen: Tensor
    ) -> Tensor | tuple[Tensor, ...]:
        """Run encoder, pooling and head."""
        layout = PackedLayout.of(input_ids, cu_seqlens, max_seqlen)
        answer = self._answer(input_ids, layout)
        return (answer, *layout.marks().values()) if self.marked else answer

    def _answer(self, input_ids: Tensor, layout: PackedLayout) -> Tensor:
        hidden = self.hidden_states(input_ids, layout)
        if self.head is None:
            return self._finish_embedding(self._pool(hidden, layout, self.spec.pooling))
        pooled = self._pool(hidden, layout, self.spec.head_pooling)
        self.stand_in.value = pooled[:, None]
        logits = self.head(input_ids=input_ids.index_select(0, layout.starts)[:, None]).logits
        return activate(logits, self.spec.activation)

    def hidden_states(self, input_ids: Tensor, layout: PackedLayout) -> Tensor:
        """Token vectors, float32 [tokens, hidden]."""
        ids = input_ids[None]
        kwargs: dict[str, Any] = {"position_ids": self._positions(input_ids, layout)[None]}
        if self._takes_token_types:
            kwargs["token_type_ids"] = torch.zeros_like(ids)
        with packed_layout(layout):
            output: Tensor = self.encoder(input_ids=ids, **kwargs)[0]
        return output[0]

    def _positions(self, input_ids: Tensor, layout: PackedLayout) -> Tensor:
        """Position ids as the model itself would make them for each sequence alone.

        RoBERTa's family counts from ``padding_idx + 1`` and over tokens that are not padding
        (``create_position_ids_from_input_ids``); a text may hold the padding token literally.
        """
        if self._padding_idx is None:
            return layout.position_of
        real = (input_ids != self._padding_idx).to(torch.int32)
        running = torch.cumsum(real, dim=0, dtype=torch.int32)
        before = (running - real).index_select(0, layout.starts)
        return (running - before.index_select(0, layout.sequence_of)) * real + self._padding_idx

    def _pool(self, hidden: Tensor, layout: PackedLayout, pooling: str) -> Tensor:
        """Reduce [tokens, hidden] to [sequences, hidden]."""
        if pooling == "cls":
            return hidden.index_select(0, layout.starts)
        if pooling == "last":
            return hidden.index_select(0, layout.starts + layout.lengths - 1)
        sequence = torch.arange(layout.starts.shape[0], dtype=torch.int32)
        member = (sequence[:, None] == layout.sequence_of[None, :]).to(hidden.dtype)
        return (member @ hidden) / layout.lengths[:, None]

    def _finish_embedding(self, pooled: Tensor) -> Tensor:
        """Normalize to unit length where the model does."""
        return nn.functional.normalize(pooled, dim=-1) if self.spec.normalize else pooled


class PaddedModule(nn.Module):
    """A model on rectangles: ``input_ids`` and ``attention_mask`` int32 [sequences, longest]."""

    def __init__(self, model: PreTrainedModel, spec: ModelSpec) -> None:
        """Keep the model whole."""
        super().__init__()
        self.spec = spec
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Run the model as transformers would, then pool."""
        # No bare cast of inputs: OpenVINO drops a cast to int64 and names the input after its result.
        mask = (attention_mask != 0).to(torch.int64)
        output = self.model(input_ids=input_ids, attention_mask=mask)
        if self.spec.task == "classification":
            return activate(output.logits, self.spec.activation)
        pooled = pool_padded(output[0], mask, self.spec.pooling)
        return nn.functional.normalize(pooled, dim=-1) if self.spec.normalize else pooled


def pool_padded(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Reduce [sequences, longest, hidden] to [sequences, hidden], padding on the right."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        rows = torch.arange(hidden.shape[0])
        return hidden[rows, mask.sum(dim=1) - 1]
    weights = mask[:, :, None].to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


class _EncoderStandIn(nn.Module):
    """Stands where a classifier expects its encoder, and hands it vectors that are pooled already.

    Every head reads the first token, or the mean over one: with [sequences, 1, hidden] both are right.
    """

    value: Tensor

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.pooler: nn.Module | None = getattr(encoder, "pooler", None)
        # ALBERT's pooler is a bare linear layer on the first token, with its activation beside it.
        self.pooler_activation: nn.Module | None = getattr(encoder, "pooler_activation", None)

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Give the pooled vectors the form of an encoder's output."""
        pooled = None
        if self.pooler is not None and self.pooler_activation is not None:
            pooled = self.pooler_activation(self.pooler(self.value[:, 0]))
        elif self.pooler is not None:
            pooled = self.pooler(self.value)
        return BaseModelOutputWithPooling(last_hidden_state=self.value, pooler_output=pooled)


def _position_padding(encoder: nn.Module) -> int | None:
    """``padding_idx`` of the position embeddings, where positions are counted from it."""
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    return getattr(table, "padding_idx", None)


def activate(logits: Tensor, activation: str) -> Tensor:
    """Turn logits into scores."""
    return torch.sigmoid(logits) if activation == "sigmoid" else torch.softmax(logits, dim=-1)
