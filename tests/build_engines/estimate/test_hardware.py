from __future__ import annotations

import pytest

from build_engines.estimate.anchors import ANCHORS, AnchorCheck, check_anchors
from build_engines.estimate.gpu import run_time
from build_engines.estimate.hardware import ALIASES, GPUS, Gpu, find_gpu, find_gpus
from tritonforge.errors import RecipeError


def test_names_are_found_whatever_their_case_and_aliases_lead_to_a_gpu() -> None:
    assert len({gpu.key for gpu in GPUS}) == len(GPUS)
    for gpu in GPUS:
        assert find_gpu(gpu.key.upper()) is gpu
        assert "NVIDIA" in gpu.source
    for alias, key in ALIASES.items():
        assert find_gpu(alias).key == key
    assert [gpu.key for gpu in find_gpus(["h100", "t4", "h100-sxm"])] == ["h100-sxm", "t4"]


def test_an_unknown_gpu_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="unknown GPU 'k80'") as raised:
        find_gpu("k80")
    assert raised.value.exit_code == 2
    for name in ("h100", "a100", "l4", "t4"):
        assert name in str(raised.value.mend)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.key)
def test_peaks_are_dense_and_keep_the_ratios_of_tensor_cores(gpu: Gpu) -> None:
    # INT8 runs at twice the rate of FP16 on every tensor core since Turing; GeForce halves FP16 with
    # float32 accumulation. A sparse figure that slipped in would break the ratio.
    expected = 4.0 if gpu.name.startswith("GeForce") else 2.0
    assert gpu.int8_tops / gpu.fp16_tflops == pytest.approx(expected, rel=0.02)
    assert (gpu.fp8_tflops is None) == (gpu.compute_capability < (8, 9))


@pytest.mark.parametrize(
    "check", check_anchors(), ids=lambda check: f"{check.anchor.gpu}-{check.anchor.name}"
)
def test_published_times_lie_in_the_models_range(check: AnchorCheck) -> None:
    # A tenth beside the range is allowed: the floor of small kernels is one number for all GPUs.
    assert 0.9 * check.low_s <= check.anchor.seconds <= check.high_s
    assert 0.55 <= check.likely_s / check.anchor.seconds <= 1.6


def test_a_lone_text_of_a_small_model_is_bound_by_launches_and_a_large_batch_by_compute() -> None:
    small = ANCHORS[1].architecture
    h100 = find_gpu("h100")

    def bound(tokens: float, length: float) -> str:
        found = run_time(
            small, "embedding", h100, "fp16", tokens=tokens, cells=tokens * length, efficiency=0.4
        )
        assert found is not None
        return found.bound

    assert bound(32, 32) == "kernel launches"
    assert bound(65536, 128) == "compute"


def test_a_gpu_without_fp8_has_no_time_for_it() -> None:
    a100 = find_gpu("a100")
    assert (
        run_time(ANCHORS[0].architecture, "embedding", a100, "fp8", tokens=10, cells=100, efficiency=0.4)
        is None
    )
