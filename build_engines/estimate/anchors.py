"""Public measurements that the GPU model is held against.

Each row is a published time or throughput of a BERT on one GPU. :func:`check_anchors` gives the model's
range for it, from the pessimistic to the optimistic efficiency, and the share of the peak that the
measurement itself comes to.
"""

from __future__ import annotations

from dataclasses import dataclass

from build_engines.estimate.architecture import Architecture
from build_engines.estimate.gpu import run_time
from build_engines.estimate.hardware import efficiency_of, find_gpu
from tritonforge.recipe import Precision


def bert(layers: int, hidden: int, heads: int) -> Architecture:
    """BERT's encoder from its sizes; vocabulary of 30,522."""
    intermediate = 4 * hidden
    linear = layers * (4 * hidden * hidden + 2 * hidden * intermediate)
    table = (30522 + 512 + 2) * hidden
    other = layers * (9 * hidden + intermediate + 4 * hidden)
    return Architecture(
        model_type="bert",
        layers=layers,
        hidden=hidden,
        heads=heads,
        head_dim=hidden // heads,
        intermediate=intermediate,
        gated=False,
        vocab_size=30522,
        parameters={"embedding": table, "encoder": linear + other, "head": 0},
        linear_elements=linear,
        linear_outputs=layers * (5 * hidden + intermediate),
        linear_macs=linear,
        head_macs=0,
        other_elements=other,
    )


BERT_BASE = bert(12, 768, 12)
BERT_LARGE = bert(24, 1024, 16)


@dataclass(frozen=True)
class Anchor:
    """One published measurement.

    Attributes:
        name: What was run.
        architecture: The model.
        gpu: Key of :data:`~build_engines.estimate.hardware.GPUS`.
        precision: Of the linear layers.
        tokens: Tokens of a text; the mean where texts differ.
        batch: Texts of a run.
        seconds: Measured, of a run.
        source: Where it was published.
    """

    name: str
    architecture: Architecture
    gpu: str
    precision: Precision
    tokens: float
    batch: int
    seconds: float
    source: str


@dataclass(frozen=True)
class AnchorCheck:
    """An anchor beside the model.

    Attributes:
        anchor: The measurement.
        low_s: Time by the model with the optimistic efficiency.
        likely_s: With the likely one.
        high_s: With the pessimistic one.
        share_of_peak: Tensor operations of the run over its measured time and the peak.
        bound: Which bound binds at the likely efficiency.
    """

    anchor: Anchor
    low_s: float
    likely_s: float
    high_s: float
    share_of_peak: float
    bound: str


_DEMO_BERT = "NVIDIA TensorRT, demo/BERT/README.md (release 9.x): A100-40GB, BERT-base, without copies"
# Padding is 54% of the tokens of SQuAD 1.1 at 384, so a text has 0.46 * 384 (openreview.net, 3nzKUh9a4M).
_SQUAD_TOKENS = 0.46 * 384

ANCHORS: tuple[Anchor, ...] = (
    Anchor(
        "BERT-large, SQuAD, MLPerf 4.0 offline",
        BERT_LARGE,
        "h100-sxm",
        "int8",
        _SQUAD_TOKENS,
        256,
        256 / 9081.5,
        "mlcommons/inference_results_v4.0, closed/NVIDIA, DGX-H100 x1 TRT, bert-99 offline: 9,081.5/s",
    ),
    Anchor("BERT-base, 128 tokens", BERT_BASE, "a100-40", "int8", 128, 1, 0.58e-3, _DEMO_BERT),
    Anchor("BERT-base, 128 tokens", BERT_BASE, "a100-40", "int8", 128, 32, 2.27e-3, _DEMO_BERT),
    Anchor("BERT-base, 128 tokens", BERT_BASE, "a100-40", "int8", 128, 128, 8.18e-3, _DEMO_BERT),
    Anchor("BERT-base, 128 tokens", BERT_BASE, "a100-40", "fp16", 128, 128, 16.14e-3, _DEMO_BERT),
    Anchor("BERT-base, 384 tokens", BERT_BASE, "a100-40", "int8", 384, 128, 29.34e-3, _DEMO_BERT),
    Anchor(
        "BGE-large, 256 texts of 450 tokens",
        BERT_LARGE,
        "l4",
        "fp16",
        115_000 / 256,
        256,
        1 / 0.43,
        "infinity, docs/docs/benchmarking.md: L4, TensorRT 0.43 requests/s of 115k tokens",
    ),
    Anchor(
        "BERT-base through Triton, 384 tokens",
        BERT_BASE,
        "t4",
        "int8",
        384,
        16,
        16 / 465,
        "triton-inference-server/server, deploy/gke-marketplace-app/benchmark: 465/s at 50 ms on a T4",
    ),
)


def check_anchors() -> list[AnchorCheck]:
    """The model beside each anchor."""
    found = []
    for anchor in ANCHORS:
        gpu = find_gpu(anchor.gpu)
        efficiency = efficiency_of(gpu)
        tokens, cells = anchor.batch * anchor.tokens, anchor.batch * anchor.tokens**2
        times = [
            run_time(
                anchor.architecture,
                "embedding",
                gpu,
                anchor.precision,
                tokens=tokens,
                cells=cells,
                efficiency=share,
                layout="padded",
            )
            for share in (efficiency.high, efficiency.likely, efficiency.low)
        ]
        low, likely, high = (time for time in times if time is not None)
        peak = gpu.peak(anchor.precision)
        assert peak is not None
        linear = anchor.architecture.flops_per_token() * tokens
        share = (linear + anchor.architecture.attention_flops(cells)) / (anchor.seconds * peak)
        found.append(AnchorCheck(anchor, low.seconds, likely.seconds, high.seconds, share, likely.bound))
    return found
