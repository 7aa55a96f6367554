from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from python_backends.packing import flatten, pack, pad
from python_backends.runners import OnnxRuntimeRunner, OpenVinoRunner, Runner, load_runner
from python_backends.settings import EncoderSettings

MATRIX = np.array([[5, 6, 7], [9, -1, -1]], np.int32)


@pytest.fixture(params=["onnxruntime", "openvino", "openvino-int8-dynamic"])
def load(request: pytest.FixtureRequest) -> Any:
    if request.param == "onnxruntime":
        return lambda path: OnnxRuntimeRunner(path, 1)
    precision = request.param.removeprefix("openvino").removeprefix("-") or "fp32"
    return lambda path: OpenVinoRunner(path, 1, precision)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_both_engines_compute_the_graph(toy: Any, tmp_path: Path, load: Any, layout: str) -> None:
    runner: Runner = load(toy.save(tmp_path / "model.onnx", layout=layout))
    batch = flatten([MATRIX])
    inputs = pack(batch, np.arange(2)) if layout == "packed" else pad(batch, np.arange(2), 0)
    rows = runner.run(inputs)["embedding"]
    np.testing.assert_allclose(rows, [toy.expected([5, 6, 7]), toy.expected([9])], atol=1e-5)


def test_a_later_run_does_not_change_an_earlier_result(toy: Any, tmp_path: Path, load: Any) -> None:
    runner: Runner = load(toy.save(tmp_path / "model.onnx"))
    first = runner.run(pack(flatten([MATRIX]), np.arange(2)))["embedding"]
    kept = first.copy()
    runner.run(pack(flatten([MATRIX + 1000]), np.arange(2)))
    np.testing.assert_array_equal(first, kept)


def test_openvino_reads_its_own_format(toy: Any, tmp_path: Path) -> None:
    import openvino

    model = openvino.convert_model(str(toy.save(tmp_path / "model.onnx")))
    openvino.save_model(model, str(tmp_path / "model.xml"), compress_to_fp16=False)
    rows = OpenVinoRunner(tmp_path / "model.xml", 1).run(pack(flatten([MATRIX]), np.arange(2)))["embedding"]
    np.testing.assert_allclose(rows[1], toy.expected([9]), atol=1e-6)


def test_the_float_part_is_bfloat16_where_the_cpu_has_it(toy: Any, tmp_path: Path) -> None:
    import openvino

    path = toy.save(tmp_path / "model.onnx")
    runner = OpenVinoRunner(path, 1, "int8", "bf16")
    native = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    computed = runner._request.get_compiled_model().get_property("INFERENCE_PRECISION_HINT")
    assert computed == (openvino.Type.bf16 if native else openvino.Type.f32)
    rows = runner.run(pack(flatten([MATRIX]), np.arange(2)))["embedding"]
    np.testing.assert_allclose(rows[1], toy.expected([9]), rtol=2e-2, atol=2e-2)


def test_load_runner_takes_engine_and_threads_from_the_settings(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.save(tmp_path / "model.onnx")
    settings = EncoderSettings("openvino", "fp32", "model.onnx", "packed", "embedding", 1, 64, 0)
    runner = load_runner(settings, tmp_path)
    assert isinstance(runner, OpenVinoRunner)
    assert runner.threads == 1
    monkeypatch.setenv("TRITONFORGE_ENGINE_THREADS", "2")
    assert load_runner(settings, tmp_path).threads == 2
    with pytest.raises(FileNotFoundError, match="rebuild the repository"):
        load_runner(settings, tmp_path / "elsewhere")
