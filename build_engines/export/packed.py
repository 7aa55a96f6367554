"""Attention over packed sequences, for every model that goes through transformers' attention interface.

A packed run holds the tokens of all sequences on one axis. Linear layers, norms and activations do not
care; attention alone must not look across a border. It gathers the tokens into a rectangle
``[sequences, longest]``, masks the tail of each row, and gathers the result back. What the rectangle
pads is paid for in the attention products only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from python_backends.openvino_graph import FROM_RECTANGLE, KEY_BIAS, MASKED_SCORE, SEQUENCE_OF, TO_RECTANGLE

ATTENTION_NAME = "tritonforge_packed"


@dataclass(frozen=True)
class PackedLayout:
    """Where each sequence lies in the packed run, worked out once a forward pass.

    Attributes:
        starts: int32 [sequences], first token of each sequence.
        lengths: int32 [sequences].
        sequence_of: int32 [tokens], the sequence each token belongs to.
        position_of: int32 [tokens], its position in that sequence.
        to_rectangle: int32 [sequences * longest], token index of each cell; cells past the end of a row
            repeat some token and are masked.
        from_rectangle: int32 [tokens], cell of each token.
        key_bias: float32 [sequences, 1, 1, longest], 0 or ``MASKED_SCORE``.
        columns: int32 [longest].
    """

    starts: Tensor
    lengths: Tensor
    sequence_of: Tensor
    position_of: Tensor
    to_rectangle: Tensor
    from_rectangle: Tensor
    key_bias: Tensor
    columns: Tensor

    @classmethod
    def of(cls, input_ids: Tensor, cu_seqlens: Tensor, max_seqlen: Tensor) -> PackedLayout:
        """Derive the layout.

        Args:
            input_ids: int32 [tokens].
            cu_seqlens: int32 [sequences + 1], 0 and the running end of each sequence.
            max_seqlen: int32 [longest]; its values are unused, its shape says the longest length
                (Triton's ``BATCH_MAX_ELEMENT_COUNT_AS_SHAPE``).
        """
        tokens = input_ids.shape[0]
        longest = max_seqlen.shape[0]
        starts, ends = cu_seqlens[:-1], cu_seqlens[1:]
        lengths = ends - starts
        token = torch.arange(tokens, dtype=torch.int32)
        columns = torch.arange(longest, dtype=torch.int32)
        sequence_of = (token[:, None] >= ends[None, :]).sum(dim=1, dtype=torch.int32)
        position_of = token - starts.index_select(0, sequence_of)
        to_rectangle = torch.clamp(starts[:, None] + columns[None, :], max=tokens - 1).reshape(-1)
        from_rectangle = sequence_of * longest + position_of
        inside = columns[None, :] < lengths[:, None]
        key_bias = torch.where(inside, 0.0, MASKED_SCORE)[:, None, None, :]
        return cls(starts, lengths, sequence_of, position_of, to_rectangle, from_rectangle, key_bias, columns)

    def marks(self) -> dict[str, Tensor]:
        """What an exported graph names; see :data:`python_backends.openvino_graph.MARKS`."""
        return {
            TO_RECTANGLE: self.to_rectangle,
            FROM_RECTANGLE: self.from_rectangle,
            SEQUENCE_OF: self.sequence_of,
            KEY_BIAS: self.key_bias,
        }

    def rectangle(self, states: Tensor) -> Tensor:
        """Gather [1, heads, tokens, dim] to [sequences, heads, longest, dim]."""
        _, heads, _, dim = states.shape
        # Transposed back before it is reshaped, so that the two transposes meet in the graph and cancel.
        flat = states.transpose(1, 2).reshape(-1, heads, dim)  # [tokens, heads, dim]
        cells = flat.index_select(0, self.to_rectangle)
        return cells.reshape(-1, self.columns.shape[0], heads, dim).transpose(1, 2)

    def tokens(self, context: Tensor) -> Tensor:
        """Gather [sequences, heads, longest, dim] back to [1, tokens, heads, dim]."""
        _, heads, _, dim = context.shape
        cells = context.transpose(1, 2).reshape(-1, heads, dim)
        return cells.index_select(0, self.from_rectangle)[None]

    def pattern_bias(self, window: int | None, causal: bool) -> Tensor:
        """Mask of local or causal attention, float32 [1, 1, longest, longest].

        Args:
            window: A token sees others fewer than so many positions away; None for all.
            causal: Whether a token sees only itself and what stands before it.
        """
        distance = self.columns[:, None] - self.columns[None, :]
        seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
        if window is not None:
            seen = seen & (distance.abs() < window)
        return torch.where(seen, 0.0, MASKED_SCORE)[None, None]


_current: list[PackedLayout] = []


@contextmanager
def packed_layout(layout: PackedLayout) -> Iterator[None]:
    """Make ``layout`` the one that :func:`packed_attention` uses within the block."""
    _current.append(layout)
    try:
        yield
    finally:
        _current.pop()


def current_layout() -> PackedLayout:
    """Give the layout of the forward pass under way."""
    return _current[-1]


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Self-attention within each sequence of a packed run.

    Has the signature of transformers' ``AttentionInterface``.

    Args:
        module: The attention module; its ``is_causal`` is honoured.
        query: float [1, heads, tokens, dim].
        key: float [1, key heads, tokens, dim]; several query heads may share one.
        value: float [1, key heads, tokens, dim].
        attention_mask: Unused, the layout says which tokens belong together.
        scaling: Factor on the scores, ``dim ** -0.5`` by default.
        sliding_window: Local attention: a token sees others fewer than so many positions away.
        position_bias: float [1, heads, longest, longest], added to the scores (MPNet).
        **kwargs: What else the interface passes; unused.

    Returns:
        float [1, tokens, heads, dim], and no weights.
    """
    layout = current_layout()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    queries, keys, values = (layout.rectangle(states) for states in (query, key, value))
    # Before the product: TensorRT asks for it, to fuse attention and to stay within float16. In the
    # rectangle, as on the tokens it would stand between two transposes that cancel.
    queries = queries * scale
    shared = query.shape[1] // key.shape[1]
    if shared > 1:  # grouped-query attention
        keys, values = (states.repeat_interleave(shared, dim=1) for states in (keys, values))
    scores = queries @ keys.transpose(2, 3)
    if position_bias is not None:
        scores = scores + position_bias
    bias = layout.key_bias
    causal = bool(getattr(module, "is_causal", False))
    if sliding_window is not None or causal:
        bias = bias + layout.pattern_bias(sliding_window, causal)
    weights = torch.softmax(scores + bias, dim=-1)
    return layout.tokens(weights @ values), None


AttentionInterface.register(ATTENTION_NAME, packed_attention)
# No mask is made: the layout takes its place.
AttentionMaskInterface.register(ATTENTION_NAME, lambda *args, **kwargs: None)
