"""Probes of graphs that are right, or wrong in one way, and what the judge says of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from build_engines.gate.judge import Evidence, judge
from build_engines.gate.probe import Probe, grid_lengths, grid_sequences, probe
from build_engines.spec import ModelSpec
from python_backends.runners import OnnxRuntimeRunner
from tritonforge.recipe import Precision, Recipe

RECIPE = Recipe(name="toy", model="unused")
GraphRunner = Callable[[str], OnnxRuntimeRunner]


@pytest.fixture
def examine(
    graph_runner: GraphRunner, toy_spec: ModelSpec, toy_answers: Callable[..., NDArray[np.float32]]
) -> Callable[..., Probe]:
    def run(
        end: str, texts: list[NDArray[np.int32]] | None = None, budget: int = 4096, most: int = 64
    ) -> Probe:
        reference = toy_answers(grid_sequences(toy_spec, texts))
        return probe(graph_runner(end), toy_spec, "packed", reference, texts, budget, most)

    return run


def failures(found: Probe, spec: ModelSpec, precision: Precision = "fp32") -> set[str]:
    verdict = judge(Evidence("toy", precision, probe=found), spec, RECIPE)
    return {check.name for check in verdict.failures}


@pytest.mark.parametrize(
    ("end", "wrong"),
    [
        ("right", set()),
        ("centred", {"outputs", "batch_invariance"}),
        ("reversed", {"outputs", "batch_invariance"}),
        ("random", {"outputs", "determinism", "batch_invariance"}),
        ("rounded", {"outputs"}),
    ],
)
def test_each_fault_is_found(
    examine: Callable[..., Probe], toy_spec: ModelSpec, end: str, wrong: set[str]
) -> None:
    found = examine(end)
    assert failures(found, toy_spec) == wrong
    assert found.bitwise == (end != "random")


def test_nan_fails_and_fits_json(examine: Callable[..., Probe], toy_spec: ModelSpec) -> None:
    found = examine("nan")
    assert "outputs" in failures(found, toy_spec)
    assert "outputs" in failures(found, toy_spec, "int8")
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert Probe(**json.loads(text)) == found


def test_a_rounded_engine_passes_in_low_precision(examine: Callable[..., Probe], toy_spec: ModelSpec) -> None:
    assert failures(examine("rounded"), toy_spec, "int8-dynamic") == set()


def test_the_cells(examine: Callable[..., Probe]) -> None:
    cells = examine("right").cells
    assert [(cell["batch"], cell["tokens"]) for cell in cells] == [
        (batch, tokens) for tokens in (128, 256) for batch in (1, 8, 32)
    ]
    assert all(cell["max_difference"] < 1e-6 for cell in cells)
    # A model that is never given more than 4 texts at once is not tried with more.
    assert {cell["batch"] for cell in examine("right", most=4).cells} == {1, 4}


def test_the_text_most_changed_by_its_neighbours_is_named(examine: Callable[..., Probe]) -> None:
    worst = examine("centred").worst[0]
    assert set(worst) == {"tokens", "among", "max_difference", "cosine"}
    assert worst["cosine"] < 0.999


@pytest.mark.parametrize("budget", [64, 300, 1000])
def test_small_budgets(examine: Callable[..., Probe], toy_spec: ModelSpec, budget: int) -> None:
    found = examine("right", budget=budget)
    assert failures(found, toy_spec) == set()
    assert {cell["batch"] for cell in found.cells} == {1, 8, 32}


class Counting:
    """Notes what a runner is given."""

    ragged = False
    filler = 0

    def __init__(self, runner: OnnxRuntimeRunner) -> None:
        self.runner = runner
        self.threads = runner.threads
        self.shapes: list[tuple[int, int]] = []

    def run(self, inputs: Mapping[str, NDArray[np.int32]]) -> dict[str, Any]:
        self.shapes.append((len(inputs["input_ids"]), len(inputs["cu_seqlens"]) - 1))
        return self.runner.run(inputs)


def test_runs_that_are_alike_are_computed_once(
    graph_runner: GraphRunner, toy_spec: ModelSpec, toy_answers: Callable[..., NDArray[np.float32]]
) -> None:
    """32 texts of 256 tokens are eight runs of four under a budget of 1,024, and one is enough."""
    runner = Counting(graph_runner("right"))
    reference = toy_answers(grid_sequences(toy_spec, None))
    probe(runner, toy_spec, "packed", reference, None, 1024, 64)
    assert runner.shapes.count((1024, 4)) == 1
    assert max(tokens for tokens, _ in runner.shapes) <= 1024


def test_lengths_end_at_the_models_limit() -> None:
    assert grid_lengths(64) == [64]
    assert grid_lengths(512) == [128, 512]
    assert grid_lengths(600) == [128, 512, 600]
    assert grid_lengths(8192) == [128, 512, 1024]


def test_text_is_joined_to_be_long_enough(examine: Callable[..., Probe], toy_spec: ModelSpec) -> None:
    texts = [np.array([2, *range(4 + i, 30), 3], np.int32) for i in range(5)]
    sequences = grid_sequences(toy_spec, texts)
    assert [len(ids) for ids in sequences] == [128] * 3 + [256] * 3
    for ids in sequences:
        assert ids.dtype == np.int32
        assert (ids[0], ids[-1]) == (2, 3)
        assert set(ids[1:-1]) <= set(range(4, 30)), "a special token in the middle of a text"
    assert len({ids.tobytes() for ids in sequences}) == 6
    found = examine("right", texts)
    assert found.source == "held-out text"
    assert failures(found, toy_spec) == set()
