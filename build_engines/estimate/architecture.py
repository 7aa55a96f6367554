"""What a model is made of, from its safetensors headers and ``config.json``; no torch, no weights read."""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from build_engines.model_files import ModelFiles
from tritonforge.errors import ModelFilesError
from tritonforge.recipe import Layout, Precision, Recipe, Task

Part = Literal["embedding", "encoder", "head"]

# A table that is looked up; `embeddings_project` and `embedding_hidden_mapping_in` are linear layers.
_TABLE = re.compile(r"(^|[._])(\w*embeddings|tok_embeddings|embed_tokens|wte|wpe|relative_attention_bias)$")
_HEAD = re.compile(
    r"^(classifier|score|pre_classifier|head|cls|lm_head|predictions?|generator_predictions)\b"
)
_POOLER = re.compile(r"(^|\.)(pooler|pooler_activation)\.")
_ALBERT_GROUPS = re.compile(r"albert_layer_groups\.(\d+)\.")

SCALE_BYTES = 4  # a float32 scale for each output channel
INT4_GROUP = 128  # weights that share a float16 scale
_INT8: frozenset[str] = frozenset({"int8", "int8-dynamic", "int8-weights", "fp8"})


@dataclass(frozen=True)
class Architecture:
    """Sizes that memory and time follow from.

    Attributes:
        model_type: As ``config.json`` says.
        layers: Transformer layers that are run (shared ones count each time).
        hidden: Width of the token vectors.
        heads: Attention heads.
        head_dim: Width of a head.
        intermediate: Width of the feed-forward layer.
        gated: Whether the feed-forward layer has a gate beside it (GLU).
        vocab_size: Rows of the word embedding.
        parameters: Elements by part: ``embedding`` (lookup tables), ``encoder``, ``head`` (pooler and
            classifier).
        linear_elements: Elements of the encoder's linear layers, as stored.
        linear_outputs: Output channels of these layers, as stored.
        linear_macs: Multiply-adds of the linear layers for one token, as run (shared layers count
            each time they run).
        head_macs: Multiply-adds of the head for one text.
        other_elements: Biases and norms of the encoder.
    """

    model_type: str
    layers: int
    hidden: int
    heads: int
    head_dim: int
    intermediate: int
    gated: bool
    vocab_size: int
    parameters: dict[Part, int]
    linear_elements: int
    linear_outputs: int
    linear_macs: int
    head_macs: int
    other_elements: int

    @property
    def total(self) -> int:
        """All parameters in the files."""
        return sum(self.parameters.values())

    def served_parameters(self, task: Task) -> int:
        """Parameters that are served: an embedding model has no use for its pooler."""
        return self.total - (self.parameters["head"] if task == "embedding" else 0)

    def weight_bytes(self, task: Task, precision: Precision, rest: int) -> int:
        """Bytes of the served weights.

        Only the encoder's linear layers change with the quantized precisions; embeddings, norms, biases
        and the head stay at ``rest`` bytes each.

        Args:
            task: Decides whether the head is served.
            precision: Of the linear layers.
            rest: Bytes of an element that is not quantized: 4 in CPU engines, 2 in TensorRT.
        """
        others = self.served_parameters(task) - self.linear_elements
        if precision in _INT8:
            return self.linear_elements + SCALE_BYTES * self.linear_outputs + rest * others
        if precision == "int4-weights":
            return self.linear_elements // 2 + 2 * self.linear_elements // INT4_GROUP + rest * others
        width = 4 if precision == "fp32" else 2
        return width * self.served_parameters(task)

    def flops_per_token(self) -> int:
        """Of the linear layers: 2 K N for each."""
        return 2 * self.linear_macs

    def attention_flops(self, cells: float) -> float:
        """Of both attention products, over all layers.

        Args:
            cells: Pairs of tokens that are computed: the sum of n * n over the texts, or of the
                rectangle's rows where the engine pads attention. Each costs 2 * 2 * heads * head_dim.
        """
        return 4.0 * cells * self.heads * self.head_dim * self.layers


def read_architecture(files: ModelFiles) -> Architecture:
    """Read headers and config.

    Raises:
        ModelFilesError: If the config lacks the sizes that an encoder has.
    """
    config = files.config
    shapes = {name: shape for path in files.weights for name, shape in _header(path).items()}
    layers = _size(config, files, "num_hidden_layers", "n_layers", "num_layers")
    hidden = _size(config, files, "hidden_size", "dim", "d_model")
    heads = _size(config, files, "num_attention_heads", "n_heads")
    parameters: dict[Part, int] = {"embedding": 0, "encoder": 0, "head": 0}
    linear_elements = linear_outputs = linear_macs = head_macs = 0
    repeat = _repeats(shapes, layers)
    for name, shape in shapes.items():
        elements = math.prod(shape)
        part = _part(name)
        if name.endswith("position_ids"):  # a counter that some files carry along
            continue
        parameters[part] += elements
        if len(shape) != 2:
            continue
        if part == "head":
            head_macs += elements
        elif part == "encoder":
            linear_elements += elements
            linear_outputs += shape[0]
            linear_macs += elements * (repeat if _ALBERT_GROUPS.search(name) else 1)
    intermediate = _size(config, files, "intermediate_size", "hidden_dim", "d_ff", default=4 * hidden)
    return Architecture(
        model_type=str(config["model_type"]),
        layers=layers,
        hidden=hidden,
        heads=heads,
        head_dim=int(config.get("head_dim") or hidden // heads),
        intermediate=intermediate,
        gated=any("gate_proj" in name for name in shapes) or config["model_type"] == "modernbert",
        vocab_size=_size(config, files, "vocab_size"),
        parameters=parameters,
        linear_elements=linear_elements,
        linear_outputs=linear_outputs,
        linear_macs=linear_macs,
        head_macs=head_macs,
        other_elements=parameters["encoder"] - linear_elements,
    )


def rest_bytes(engine: str) -> int:
    """Bytes of an element that is not quantized: TensorRT keeps the rest in FP16, CPU engines in FP32."""
    return 2 if engine == "tensorrt" else 4


def packs(recipe: Recipe, config: dict[str, Any]) -> Layout:
    """The layout to expect before anything is exported: packed, but where it is known not to be."""
    if recipe.layout == "padded" or config["model_type"] in {"deberta", "deberta-v2"}:
        return "padded"
    return "packed"


def _part(name: str) -> Part:
    """Which part of the model a tensor belongs to."""
    if _HEAD.match(name) or _POOLER.search(f".{name}"):
        return "head"
    owner = name.rsplit(".", 1)[0]
    return "embedding" if _TABLE.search(owner) else "encoder"


def _repeats(shapes: dict[str, tuple[int, ...]], layers: int) -> int:
    """How often each stored layer runs: ALBERT shares one group among all layers."""
    groups = {int(found[1]) for name in shapes if (found := _ALBERT_GROUPS.search(name))}
    return layers // len(groups) if groups else 1


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by tensor name: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def _size(config: dict[str, Any], files: ModelFiles, *names: str, default: int | None = None) -> int:
    """The first of several keys that the config has."""
    for name in names:
        if isinstance(config.get(name), int):
            return int(config[name])
    if default is not None:
        return default
    raise ModelFilesError(
        f"has none of {', '.join(names)}, so nothing can be estimated",
        where=str(files.folder / "config.json"),
        mend="give an encoder's config.json as transformers writes it",
    )
