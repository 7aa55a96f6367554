"""Models that transformers' attention interface does not reach, or whose graph would be compiled badly.

An adapter changes one loaded model in place, so that a forward pass under
:func:`~build_engines.export.packed.packed_layout` keeps to each sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from build_engines.export.packed import current_layout, packed_attention


def adapt_mpnet(model: PreTrainedModel) -> None:
    """Give MPNet packed attention and a position bias over one row of the rectangle.

    MPNet adds a learned bias by relative position (Song et al. 2020, section 2.3) and computes its
    attention by hand. The bias depends on positions within a sequence only, so it is computed for
    ``[longest, longest]`` and shared by all rows.
    """
    encoder: Any = model.base_model.encoder
    compute_bias = encoder.compute_position_bias

    def position_bias(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        longest = current_layout().columns.shape[0]
        # The bound method of the model is Any.
        return compute_bias(hidden_states.new_zeros(1, longest, 1))  # type: ignore[no-any-return]

    encoder.compute_position_bias = position_bias
    for layer in encoder.layer:
        attention = layer.attention.attn
        attention.forward = _mpnet_attention(attention)


def _mpnet_attention(attention: Any) -> Callable[..., tuple[Tensor]]:
    """Build the forward of one MPNet self-attention."""

    def forward(
        hidden_states: Tensor, attention_mask: Any = None, position_bias: Tensor | None = None, **_: Any
    ) -> tuple[Tensor]:
        shape = (*hidden_states.shape[:-1], -1, attention.attention_head_size)
        query, key, value = (
            project(hidden_states).view(shape).transpose(1, 2)
            for project in (attention.q, attention.k, attention.v)
        )
        context, _weights = packed_attention(attention, query, key, value, None, position_bias=position_bias)
        return (attention.o(context.reshape(*hidden_states.shape[:-1], -1)),)

    return forward


def adapt_modernbert(model: PreTrainedModel) -> None:
    """Give ModernBERT three projections instead of one that is cut in three.

    TensorRT pulls the cuts into the one weight, and with Q/DQ then computes it dequantized in FP16. Three
    weights that read one input it merges by itself, and in INT8.
    """
    encoder: Any = model.base_model
    for layer in encoder.layers:
        attention = layer.attn
        attention.query, attention.key, attention.value = _thirds(attention.Wqkv)
        del attention.Wqkv
        attention.forward = _modernbert_attention(attention)


def _thirds(fused: nn.Linear) -> tuple[nn.Linear, ...]:
    """Three linear layers of the rows of one."""
    biases = (None,) * 3 if fused.bias is None else fused.bias.chunk(3)
    parts = []
    for weight, bias in zip(fused.weight.chunk(3), biases, strict=True):
        part = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        part.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        if bias is not None:
            part.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        parts.append(part)
    return tuple(parts)


def _modernbert_attention(attention: Any) -> Callable[..., tuple[Tensor, None]]:
    """Build the forward of one ModernBERT self-attention."""
    from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

    def forward(
        hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], *_: Any, **__: Any
    ) -> tuple[Tensor, None]:
        shape = (*hidden_states.shape[:-1], -1, attention.head_dim)
        query, key, value = (
            project(hidden_states).view(shape).transpose(1, 2)
            for project in (attention.query, attention.key, attention.value)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings, unsqueeze_dim=1)
        context, _weights = packed_attention(
            attention, query, key, value, None, sliding_window=attention.sliding_window
        )
        return attention.Wo(context.reshape(*hidden_states.shape[:-1], -1)), None

    return forward


ADAPTERS: dict[str, Callable[[PreTrainedModel], None]] = {
    "mpnet": adapt_mpnet,
    "modernbert": adapt_modernbert,
}


def can_be_packed(model: PreTrainedModel) -> bool:
    """Whether attention can be replaced at all; the parity check has the last word."""
    return model.config.model_type in ADAPTERS or bool(model._supports_attention_backend)


def adapt(model: PreTrainedModel) -> None:
    """Apply the adapter of the model's type, if there is one."""
    adapter = ADAPTERS.get(model.config.model_type)
    if adapter is not None:
        adapter(model)
