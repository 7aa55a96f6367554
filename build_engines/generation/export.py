"""Torch to OpenVINO: a decoder that keeps its KV cache as state.

The form is the one that OpenVINO GenAI puts its paged attention into: inputs ``input_ids``,
``attention_mask``, ``position_ids`` and ``beam_idx``, a state for keys and one for values in each layer,
gathered by ``beam_idx`` before they grow, and scaled dot product attention over them.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation
from transformers.cache_utils import DynamicCache, DynamicLayer

from build_engines.generation.facts import ModelFacts
from tritonforge.errors import ExportError, first_line

IR = "openvino_model.xml"
_TOKEN_INPUTS = ("input_ids", "attention_mask", "position_ids")
_BATCH, _NEW, _PAST = 2, 3, 5  # sizes of the trace; all different, so that none is taken for another
_PARTS = ("key", "value")


def export_stateful(model: Any, facts: ModelFacts, path: Path) -> None:
    """Write a model in float32 as stateful IR.

    Args:
        model: From :func:`build_engines.generation.load.load_causal`, with attention ``sdpa``.
        facts: Layers, heads and their width.
        path: The ``.xml`` to write.

    Raises:
        ExportError: If the model keeps its cache in another way, or cannot be traced.
    """
    logging.getLogger("nncf").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():  # the tracer's, of branches that do not depend on the input
            warnings.simplefilter("ignore")
            traced = _trace(model, facts)
        _name(traced, facts)
        _make_stateful(traced, facts)
    except ExportError:
        raise
    except Exception as error:  # transformers' code, torch's tracer and OpenVINO's front end raise any class
        raise ExportError(
            f"{facts.architecture} cannot be traced: {first_line(error)[:300]}",
            where="export",
            mend="use a family whose attention is plain: Llama, Qwen2, Qwen3, Mistral, Phi, GPT-2",
        ) from error
    ov.save_model(traced, path, compress_to_fp16=False)


class _CachedDecoder(torch.nn.Module):
    """A causal model as a function of token ids and past keys and values."""

    def __init__(self, model: Any) -> None:
        """Keep the model."""
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        *past: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Give logits, then grown keys and values of each layer."""
        cache: Any = DynamicCache()
        cache.layers = [_filled(keys, values) for keys, values in zip(past[::2], past[1::2], strict=True)]
        cache.layer_class_to_replicate = None
        output = self.model(
            input_ids=input_ids,
            attention_mask=_causal(input_ids, attention_mask),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        grown = [part for layer in output.past_key_values.layers for part in (layer.keys, layer.values)]
        return (output.logits, *grown)


def _filled(keys: torch.Tensor, values: torch.Tensor) -> Any:
    """A cache layer that holds something already."""
    layer: Any = DynamicLayer()  # type: ignore[no-untyped-call]  # the library is untyped
    layer.dtype, layer.device = keys.dtype, keys.device
    layer.keys, layer.values, layer.is_initialized = keys, values, True
    return layer


def _causal(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """What each new token must not see, added to the scores; written out so that its shape is traced."""
    all_positions = torch.arange(attention_mask.shape[1])
    new_positions = all_positions[attention_mask.shape[1] - input_ids.shape[1] :]
    seen = (all_positions[None, :] <= new_positions[:, None])[None, None]
    seen = seen & (attention_mask[:, None, None, :] > 0)
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)


def _trace(model: Any, facts: ModelFacts) -> Any:
    """The graph with caches as inputs and outputs."""
    everything = _PAST + _NEW
    example = (
        torch.randint(0, facts.vocab_size, (_BATCH, _NEW)),
        torch.ones(_BATCH, everything, dtype=torch.long),
        torch.arange(_PAST, everything)[None].repeat(_BATCH, 1),
        *(torch.randn(_BATCH, facts.kv_heads, _PAST, facts.head_dim) for _ in range(2 * facts.layers)),
    )
    decoder = _CachedDecoder(model)
    with torch.no_grad():
        grown = decoder(*example)[1:]
        shapes = {tuple(part.shape) for part in grown}
        expected = (_BATCH, facts.kv_heads, everything, facts.head_dim)
        if len(grown) != 2 * facts.layers or shapes != {expected}:
            raise ExportError(
                f"{facts.architecture} caches {sorted(shapes)}, and {expected} in {2 * facts.layers} tensors "
                "was expected",
                where="export",
                mend="use a model with the same key and value heads in every layer",
            )
        return ov.convert_model(decoder, example_input=example)


def _cache_names(prefix: str, facts: ModelFacts) -> list[str]:
    """Names of the caches, keys and values in turn."""
    return [f"{prefix}.{layer}.{part}" for layer in range(facts.layers) for part in _PARTS]


def _name(traced: Any, facts: ModelFacts) -> None:
    """Give inputs and outputs the names and shapes that OpenVINO GenAI looks for."""
    shapes = [ov.PartialShape([-1, -1])] * len(_TOKEN_INPUTS)
    shapes += [ov.PartialShape([-1, facts.kv_heads, -1, facts.head_dim])] * (2 * facts.layers)
    names = [*_TOKEN_INPUTS, *_cache_names("past_key_values", facts)]
    for port, name, shape in zip(traced.inputs, names, shapes, strict=True):
        port.get_node().set_partial_shape(shape)
        port.get_tensor().set_names({name})
    for port, name in zip(traced.outputs, ["logits", *_cache_names("present", facts)], strict=True):
        port.get_tensor().set_names({name})
    traced.validate_nodes_and_infer_types()


def _make_stateful(traced: Any, facts: ModelFacts) -> None:
    """Turn the caches into states, reordered by ``beam_idx`` and empty at first."""
    beam = ops.parameter([-1], np.int32, name="beam_idx")
    beam.output(0).get_tensor().add_names({"beam_idx"})
    traced.add_parameters([beam])
    past = _cache_names("past_key_values", facts)
    for name in past:
        parameter = traced.input(name).get_node()
        readers = list(parameter.output(0).get_target_inputs())
        reordered = ops.gather(parameter, beam, ops.constant(0, dtype=np.int64))
        for reader in readers:
            reader.replace_source_output(reordered.output(0))
    traced.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(traced, dict(zip(past, _cache_names("present", facts), strict=True)))
    batch = ops.gather(
        ops.shape_of(traced.input("input_ids"), output_type="i64"),
        ops.constant([0], dtype=np.int64),
        ops.constant(0, dtype=np.int64),
    )
    sizes = [ops.constant(np.array([size], dtype=np.int64)) for size in (facts.kv_heads, 0, facts.head_dim)]
    empty = ops.broadcast(ops.constant(0.0, dtype=np.float32), ops.concat([batch, *sizes], axis=0))
    for operation in traced.get_ops():
        if operation.get_type_name() == "ReadValue":
            operation.set_arguments([empty.output(0)])
    traced.validate_nodes_and_infer_types()
