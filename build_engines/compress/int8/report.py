"""What the quantizer did, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LayerRow:
    """One linear layer.

    Attributes:
        name: Readable name.
        role: query, key, value, qkv, attention_output, ffn_in, ffn_out, head or other.
        node: Node of the graph; the compiler's layer table refers to it.
        group: Layers of one group share their input's scale.
        share: Of all linear layers' multiply-adds.
        precision: ``int8``, ``fp8``, or ``float`` where it was left alone.
        reason: Why it was left alone, else empty.
        alpha: Strength of the migration, if any.
        centred: Whether the middle of each channel is subtracted from the input.
        migration: Where both go: ``mul`` (nodes before the quantizer), ``value`` or ``norm`` (folded).
        method: How the range was found.
        error: Relative squared error of the group's own output, on sampled rows.
        alone: 1 - mean cosine of the model with this group alone quantized.
    """

    name: str
    role: str
    node: str
    group: str
    share: float
    precision: str
    reason: str
    alpha: float | None
    centred: bool
    migration: str
    method: str
    error: float | None
    alone: float | None


@dataclass(frozen=True)
class CurvePoint:
    """The model with some groups left in higher precision.

    Attributes:
        left: Names of the groups, in the order they were taken out.
        share: Of the multiply-adds that are quantized.
        mean_cosine: To float32, on the validation slice.
        min_cosine: The smallest of the same.
        overlap: Share of equal neighbours among the nearest ``gate.top_k``, for embeddings.
    """

    left: tuple[str, ...]
    share: float
    mean_cosine: float
    min_cosine: float
    overlap: float | None = None


@dataclass(frozen=True)
class QuantizationReport:
    """Result of a calibrated quantization.

    Attributes:
        number: ``int8`` or ``fp8``.
        share: Of the linear layers' multiply-adds that are quantized.
        mean_cosine: To float32, of the written graph in ONNX Runtime on the validation slice.
        min_cosine: The smallest of the same.
        layers: All linear layers, in the order of the graph.
        sensitivity: Groups by the error that each adds alone, worst first, with 1 - mean and 1 - min cosine.
        curve: What was tried.
        attention: Attention products that were quantized.
        notes: What a reader should know.
        seconds: Wall time by stage.
    """

    number: str
    share: float
    mean_cosine: float
    min_cosine: float
    layers: tuple[LayerRow, ...]
    sensitivity: tuple[tuple[str, float, float], ...]
    curve: tuple[CurvePoint, ...]
    attention: int
    notes: tuple[str, ...]
    seconds: dict[str, float]

    @property
    def int8_share(self) -> float:
        """The share, by the name that most readers look for."""
        return self.share

    def as_dict(self) -> dict[str, Any]:
        """Everything, in types that fit JSON."""
        found = asdict(self)
        found["int8_share"] = self.share
        found["sensitivity"] = [
            {"group": name, "mean_error": mean, "max_error": worst} for name, mean, worst in self.sensitivity
        ]
        return found
