"""A packed graph that takes windows answers as it did; one that cannot is left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from build_engines.estimate.architecture import read_architecture
from build_engines.estimate.layer import OUTPUT, write_layers
from build_engines.model_files import find_model
from python_backends.encoder.batch import BatchEncoder
from python_backends.openvino_graph import KEY_BIAS, MARKS, TO_RECTANGLE, to_windows
from python_backends.packing import flatten, pack
from python_backends.runners import OpenVinoRunner
from python_backends.settings import EncoderSettings

quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def layers(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers that attend within each sequence."""
    path = tmp_path_factory.mktemp("layers") / "layers.onnx"
    write_layers(read_architecture(find_model(str(tiny_model("bert")))), 2, path)
    return path


@pytest.fixture(scope="module")
def runners(layers: Path) -> tuple[OpenVinoRunner, OpenVinoRunner]:
    return OpenVinoRunner(layers, 1), OpenVinoRunner(layers, 1, windows=False)


@quick
@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=30), seed=st.integers(0, 99))
@example(lengths=[1], seed=0)
@example(lengths=[64] * 12, seed=0)
@example(lengths=[130, 4, 200, 7, 64, 1], seed=0)
def test_windows_change_no_answer(
    runners: tuple[OpenVinoRunner, OpenVinoRunner], lengths: list[int], seed: int
) -> None:
    windows, packed = runners
    rng = np.random.default_rng(seed)
    batch = flatten([rng.integers(0, 1000, (1, length), dtype=np.int32) for length in lengths])
    inputs = pack(batch, np.arange(batch.count))
    np.testing.assert_allclose(windows.run(inputs)[OUTPUT], packed.run(inputs)[OUTPUT], atol=1e-5)


def test_a_runner_tells_what_it_computed_beside(runners: tuple[OpenVinoRunner, OpenVinoRunner]) -> None:
    windows, packed = runners
    batch = flatten([np.ones((1, length), np.int32) for length in (50, 13)])
    for runner in runners:
        runner.run(pack(batch, np.arange(2)))
    assert (windows.ragged, windows.filler) == (True, 1)
    assert (packed.ragged, packed.filler) == (False, 0)


def test_an_execution_counts_the_filler(layers: Path) -> None:
    """A counter may not shrink: for a lone text the slots of its window exceed one rectangle."""
    settings = EncoderSettings("openvino", "fp32", layers.name, "packed", "embedding", 1, 4096, 0)
    encoder = BatchEncoder(OpenVinoRunner(layers, 1), settings)
    answer = encoder.encode([np.ones((1, 5), np.int32)], lambda index: False)
    assert (answer.run_tokens, answer.filler, answer.padding_avoided) == ([5], 3, 0)


def test_no_gather_into_a_rectangle_is_left(layers: Path) -> None:
    model = ov.Core().read_model(layers)
    before = _kinds(model)
    assert to_windows(model)
    after = _kinds(model)
    assert before.count("Gather") - after.count("Gather") >= 2 * 4  # q, k, v and back, in each layer
    assert after.count("Select") >= 1


@pytest.mark.parametrize("mark", MARKS)
def test_a_graph_without_a_mark_stays_as_it_was(layers: Path, mark: str) -> None:
    model = ov.Core().read_model(layers)
    _output(model, mark).get_tensor().set_names({"renamed"})
    before = _kinds(model)
    assert not to_windows(model)
    assert _kinds(model) == before


def test_indices_that_do_anything_else_are_not_touched(layers: Path) -> None:
    model = ov.Core().read_model(layers)
    indices, bias = _output(model, TO_RECTANGLE), _output(model, KEY_BIAS)
    indices.get_tensor().set_names({"renamed"})
    bias.get_tensor().add_names({TO_RECTANGLE})  # read by additions
    before = _kinds(model)
    assert not to_windows(model)
    assert _kinds(model) == before


def test_a_padded_graph_is_run_as_it_is(toy: Any, tmp_path: Path) -> None:
    assert not to_windows(ov.Core().read_model(toy.save(tmp_path / "model.onnx", layout="padded")))


def _kinds(model: ov.Model) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


def _output(model: ov.Model, name: str) -> Any:
    return next(output for node in model.get_ops() for output in node.outputs() if name in output.get_names())
