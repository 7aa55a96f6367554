"""Every named architecture, both tasks, both engines: the build compares with eager transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import pytest

from python_backends.packing import flatten, pack
from python_backends.runners import OpenVinoRunner
from tritonforge.errors import ParityError

PACKED = ["bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "electra", "modernbert", "albert"]


class Built(Protocol):
    context: Any
    report: Any


TinyBuild = Callable[[str, str], Built]


def check_parity(built: Built) -> None:
    """Both engines were compared, from one token to the longest text."""
    figures = built.report.step("check").figures
    assert set(figures) == {"onnxruntime-fp32", "openvino-fp32"}
    for parity in figures.values():
        assert parity["max_difference"] < 1e-4
        assert (parity["shortest"], parity["longest"]) == (1, 64)


def check_windows(built: Built) -> None:
    """OpenVINO lays sequences of unlike lengths into shared rows, and answers as without."""
    windows, packed = (OpenVinoRunner(built.context.exported, 1, windows=on) for on in (True, False))
    assert windows.ragged and not packed.ragged
    rng = np.random.default_rng(0)
    lengths = [3, 64, 1, 40, 17, 9, 2, 33, 5, 64, 12]
    batch = flatten([rng.integers(0, 100, (1, length), dtype=np.int32) for length in lengths])
    inputs = pack(batch, np.arange(batch.count))
    (together,), (apart,) = (runner.run(inputs).values() for runner in (windows, packed))
    np.testing.assert_allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize("task", ["embedding", "classification"])
@pytest.mark.parametrize("architecture", PACKED)
def test_is_packed(tiny_build: TinyBuild, architecture: str, task: str) -> None:
    built = tiny_build(architecture, task)
    assert built.context.layout == "packed", built.report.step("export").notes
    check_parity(built)
    check_windows(built)
    graph = onnx.load(built.context.exported).graph
    assert [value.name for value in graph.input] == ["input_ids", "cu_seqlens", "max_seqlen"]
    assert {value.type.tensor_type.elem_type for value in graph.input} == {onnx.TensorProto.INT32}
    (output,) = graph.output
    assert output.name == ("embedding" if task == "embedding" else "scores")
    assert output.type.tensor_type.shape.dim[1].dim_value == (32 if task == "embedding" else 3)


def test_causal_and_grouped_query(tiny_build: TinyBuild) -> None:
    built = tiny_build("qwen3", "embedding")
    assert built.context.layout == "packed"
    check_parity(built)
    check_windows(built)


@pytest.mark.parametrize("task", ["embedding", "classification"])
def test_what_cannot_be_packed_is_padded_with_a_note(tiny_build: TinyBuild, task: str) -> None:
    built = tiny_build("deberta-v2", task)
    assert built.context.layout == "padded"
    (note,) = built.report.step("export").notes
    assert "padded, since the model cannot be packed" in note and "DebertaV2" in note
    check_parity(built)
    page = (built.context.build_dir / "report.md").read_text()
    assert note in page


@pytest.mark.parametrize("task", ["embedding", "classification"])
def test_a_model_that_mixes_padding_into_its_result_is_not_served(
    tiny_build: TinyBuild, tiny_repository: Path, build_root: Path, task: str
) -> None:
    """FNet's Fourier transform runs over the padding as well."""
    with pytest.raises(ParityError, match="depends on its neighbours") as caught:
        tiny_build("fnet", task)
    assert caught.value.exit_code == 1
    assert list(tiny_repository.glob(f"fnet-{task}*")) == []
    report = json.loads((build_root / f"fnet-{task}" / "report.json").read_text())
    assert report["status"] == "failed"
    assert report["failure"] == caught.value.as_dict()
    steps = [step["step"] for step in report["steps"]]
    assert (steps[0], steps[-1]) == ("resolve", "compile"), "the check must fail"


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_tiny_models_would_show_a_neighbour(
    tiny_build: TinyBuild, tiny_model: Callable[..., Path], architecture: str
) -> None:
    """Proof that the parity above can fail: with two sequences joined into one, the numbers change."""
    from build_engines.engines import ENGINES

    built = tiny_build(architecture, "embedding")
    candidate = built.context.candidates["onnxruntime-fp32"].compiled
    runner = ENGINES["onnxruntime"].load(candidate, 1)
    ids = np.arange(10, 34, dtype=np.int32)

    def run(*ends: int) -> Any:
        bounds = np.array([0, *ends], np.int32)
        longest = np.zeros(int(np.diff(bounds).max()), np.int32)
        return runner.run({"input_ids": ids, "cu_seqlens": bounds, "max_seqlen": longest})["embedding"]

    apart, joined = run(12, 24), run(24)
    assert np.abs(apart.mean(axis=0) - joined[0]).max() > 1e-2
