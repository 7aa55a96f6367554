"""Where a model keeps its attention heads and feed-forward channels, and how they are taken out.

A *site* is one place where units can go: the attention of a layer (units: heads, or groups of query heads
that share a key head) or its feed-forward block (units: channels). Several linear layers make the units
(their rows go), one linear layer reads them (its columns go).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tritonforge.errors import PruningError

Kind = Literal["heads", "channels"]


@dataclass(frozen=True)
class _Attention:
    """Names in a layer; ``fused`` says how many projections the first one holds side by side."""

    module: str
    query: str
    output: str
    residual: str
    others: tuple[str, ...] = ()
    fused: int = 1


@dataclass(frozen=True)
class _FeedForward:
    """Names in a layer; ``fused`` as for attention (gate and value in one matrix: 2)."""

    inputs: tuple[str, ...]
    output: str
    residual: str
    fused: int = 1


@dataclass(frozen=True)
class _Family:
    """Where the layers are, with ``*`` for every entry of a list, and the names in each."""

    layers: str
    attention: _Attention
    feed_forward: _FeedForward


_BERT = _Family(
    "encoder.layer.*",
    _Attention(
        module="attention.self",
        query="attention.self.query",
        others=("attention.self.key", "attention.self.value"),
        output="attention.output.dense",
        residual="attention.self.query",
    ),
    _FeedForward(inputs=("intermediate.dense",), output="output.dense", residual="intermediate.dense"),
)
_FAMILIES: dict[str, _Family] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), _BERT),
    "mpnet": _Family(
        "encoder.layer.*",
        _Attention(
            module="attention.attn",
            query="attention.attn.q",
            others=("attention.attn.k", "attention.attn.v"),
            output="attention.attn.o",
            residual="attention.attn.q",
        ),
        _BERT.feed_forward,
    ),
    "distilbert": _Family(
        "transformer.layer.*",
        _Attention(
            module="attention",
            query="attention.q_lin",
            others=("attention.k_lin", "attention.v_lin"),
            output="attention.out_lin",
            residual="attention.q_lin",
        ),
        _FeedForward(inputs=("ffn.lin1",), output="ffn.lin2", residual="ffn.lin1"),
    ),
    "albert": _Family(
        "encoder.albert_layer_groups.*.albert_layers.*",
        _Attention(
            module="attention",
            query="attention.query",
            others=("attention.key", "attention.value"),
            output="attention.dense",
            residual="attention.query",
        ),
        _FeedForward(inputs=("ffn",), output="ffn_output", residual="ffn"),
    ),
    "modernbert": _Family(
        "layers.*",
        _Attention(module="attn", query="attn.Wqkv", output="attn.Wo", residual="attn_norm", fused=3),
        _FeedForward(inputs=("mlp.Wi",), output="mlp.Wo", residual="mlp_norm", fused=2),
    ),
    "qwen3": _Family(
        "layers.*",
        _Attention(
            module="self_attn",
            query="self_attn.q_proj",
            others=("self_attn.k_proj", "self_attn.v_proj"),
            output="self_attn.o_proj",
            residual="input_layernorm",
        ),
        _FeedForward(
            inputs=("mlp.gate_proj", "mlp.up_proj"),
            output="mlp.down_proj",
            residual="post_attention_layernorm",
        ),
    ),
}
FAMILIES = tuple(sorted(_FAMILIES))


@dataclass(frozen=True)
class Source:
    """A linear layer that makes units.

    Its output features are ``sections`` by units by ``width``, in this order.
    """

    linear: nn.Linear
    sections: int
    width: int

    def rows(self, units: int, keep: Tensor) -> Tensor:
        """Indices of the output features of the units in ``keep``, int64."""
        grid = torch.arange(self.sections * units * self.width).reshape(self.sections, units, self.width)
        return grid[:, keep].reshape(-1)


@dataclass(frozen=True)
class Site:
    """One place where units can go.

    Attributes:
        name: Path of the layer in the encoder, with the kind.
        kind: ``heads`` or ``channels``.
        layer: The layer it belongs to.
        owner: The attention module, which keeps counts of its own; None for channels.
        sources: Linear layers that make the units.
        output: The linear layer that reads them: units by ``width`` input features.
        width: Input features of ``output`` that one unit has.
        head: Input features of ``output`` that one query head has; 1 for channels.
        residual: The module whose first argument is the stream that the site's output is added to.
    """

    name: str
    kind: Kind
    layer: nn.Module
    owner: nn.Module | None
    sources: tuple[Source, ...]
    output: nn.Linear
    width: int
    head: int
    residual: nn.Module

    @property
    def units(self) -> int:
        """How many units there are now."""
        return self.output.in_features // self.width

    @property
    def size(self) -> int:
        """Query heads or channels there are now."""
        return self.output.in_features // self.head

    @property
    def unit_parameters(self) -> int:
        """Parameters that go with one unit."""
        made = sum(
            source.sections * source.width * (source.linear.in_features + (source.linear.bias is not None))
            for source in self.sources
        )
        return made + self.width * self.output.out_features

    def columns(self, keep: Tensor) -> Tensor:
        """Input features of ``output`` that the units in ``keep`` have, int64."""
        return (keep[:, None] * self.width + torch.arange(self.width)).reshape(-1)


def find_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The encoder's layers by their path in ``model.base_model``; shared ones once."""
    return _expand(model.base_model, _family(model).layers.split("."))


def find_sites(model: PreTrainedModel) -> list[Site]:
    """All sites of a model, in the order in which data passes them.

    Raises:
        PruningError: If the family is unknown, or a layer is not built as its family's are.
    """
    family = _family(model)
    sites = []
    for name, layer in find_layers(model).items():
        try:
            sites += [
                _attention_site(f"{name}.heads", layer, family.attention),
                _feed_forward_site(f"{name}.channels", layer, family.feed_forward),
            ]
        except AttributeError as error:
            raise PruningError(
                f"layer {name} is not built as {model.config.model_type} usually is: {error}",
                where="prune",
                mend="set `prune.sparsity: 0`",
            ) from error
    return sites


def shrink(site: Site, keep: Sequence[int]) -> None:
    """Take all units out of a site but those in ``keep``; the linear layers change in place.

    Args:
        site: Of a model in memory.
        keep: Units that stay, ascending, at least one.
    """
    units, kept = site.units, torch.tensor(keep, dtype=torch.int64)
    for source in site.sources:
        _take(source.linear, source.rows(units, kept), dimension=0)
    _take(site.output, site.columns(kept), dimension=1)
    if site.owner is None:
        return
    counted: Any = site.owner
    # Forward passes read head counts off the shapes; MPNet's alone reads the attribute.
    counted.all_head_size = site.output.in_features
    if hasattr(counted, "num_attention_heads"):
        counted.num_attention_heads = len(keep)
    if type(counted).__name__.startswith("MPNet"):
        counted.register_forward_pre_hook(partial(_keep_bias, kept), with_kwargs=True)


def _keep_bias(keep: Tensor, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """MPNet shares one position bias over all layers; give each layer that of its own heads."""
    if kwargs.get("position_bias") is not None:
        return args, {**kwargs, "position_bias": kwargs["position_bias"].index_select(1, keep)}
    if len(args) > 2 and args[2] is not None:
        return (*args[:2], args[2].index_select(1, keep), *args[3:]), kwargs
    return None


def _take(linear: nn.Linear, indices: Tensor, dimension: int) -> None:
    """Keep some rows (0) or columns (1) of a linear layer's weight."""
    linear.weight = nn.Parameter(
        linear.weight.detach().index_select(dimension, indices).contiguous(), requires_grad=False
    )
    linear.out_features, linear.in_features = linear.weight.shape
    if dimension == 0 and linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach().index_select(0, indices), requires_grad=False)


def _family(model: PreTrainedModel) -> _Family:
    """The entry of the model's type."""
    family = _FAMILIES.get(model.config.model_type)
    if family is None:
        raise PruningError(
            f"where a {model.config.model_type} model keeps its heads and channels is not known",
            where="prune",
            mend=f"set `prune.sparsity: 0`, or use one of {', '.join(FAMILIES)}",
        )
    return family


def _expand(root: nn.Module, path: Sequence[str], prefix: str = "") -> dict[str, nn.Module]:
    """Modules under a path, by name."""
    if not path:
        return {prefix: root}
    head, rest = path[0], path[1:]
    names = [name for name, _ in root.named_children()] if head == "*" else [head]
    found: dict[str, nn.Module] = {}
    for name in names:
        found |= _expand(root.get_submodule(name), rest, f"{prefix}.{name}" if prefix else name)
    return found


def _attention_site(name: str, layer: nn.Module, names: _Attention) -> Site:
    """Heads of one layer; where query heads share a key head, they go together."""
    owner = layer.get_submodule(names.module)
    owned: Any = owner
    head = int(owned.attention_head_size if hasattr(owned, "attention_head_size") else owned.head_dim)
    query, output = _linear(layer, names.query), _linear(layer, names.output)
    others = [_linear(layer, other) for other in names.others]
    groups = (others[0].out_features if others else output.in_features) // head
    width = output.in_features // groups
    sources = [Source(query, names.fused, query.out_features // (names.fused * groups))]
    sources += [Source(other, 1, head) for other in others]
    residual = layer.get_submodule(names.residual)
    return Site(name, "heads", layer, owner, tuple(sources), output, width, head, residual)


def _feed_forward_site(name: str, layer: nn.Module, names: _FeedForward) -> Site:
    """Channels of one layer."""
    sources = tuple(Source(_linear(layer, path), names.fused, 1) for path in names.inputs)
    output, residual = _linear(layer, names.output), layer.get_submodule(names.residual)
    return Site(name, "channels", layer, None, sources, output, 1, 1, residual)


def _linear(layer: nn.Module, path: str) -> nn.Linear:
    """A linear layer by its path."""
    module = layer.get_submodule(path)
    if not isinstance(module, nn.Linear):
        raise AttributeError(f"{path} is a {type(module).__name__}, not a linear layer")
    return module
