from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from python_backends.encoder.batch import BatchEncoder, Failed, Failure
from python_backends.runners import OnnxRuntimeRunner
from python_backends.settings import EncoderSettings

BASE: dict[str, Any] = {
    "engine": "onnxruntime",
    "precision": "fp32",
    "model_file": "model.onnx",
    "layout": "packed",
    "task": "embedding",
    "threads": 1,
    "token_budget": 64,
    "pad_token_id": 0,
}


def encoder(toy: Any, folder: Path, **changes: Any) -> BatchEncoder:
    settings = EncoderSettings(**(BASE | changes))
    path = toy.save(folder / "model.onnx", layout=settings.layout, output=settings.output)
    return BatchEncoder(OnnxRuntimeRunner(path, 1), settings)


def requests(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    batch = []
    for _ in range(count):
        matrix = rng.integers(0, 30522, (rng.integers(1, 4), rng.integers(2, 20)), dtype=np.int32)
        matrix[-1, rng.integers(1, matrix.shape[1] + 1) :] = -1
        batch.append(matrix)
    return batch


def never(index: int) -> bool:
    return False


def check(toy: Any, matrix: np.ndarray, result: Any) -> None:
    expected = np.stack([toy.expected(row[row >= 0]) for row in matrix])
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("budget", [20, 64, 10**6])
def test_rows_come_back_to_their_requests(toy: Any, tmp_path: Path, layout: str, budget: int) -> None:
    batch = requests(12)
    answer = encoder(toy, tmp_path, layout=layout, token_budget=budget).encode(batch, never)
    for matrix, result in zip(batch, answer.results, strict=True):
        check(toy, matrix, result)
    assert sum(answer.run_tokens) == sum(int((matrix >= 0).sum()) for matrix in batch)
    assert answer.sequences == sum(matrix.shape[0] for matrix in batch)
    assert (len(answer.run_tokens) > 1) == (budget < 10**6)


def test_padding_avoided_is_one_rectangle_less_what_was_computed(toy: Any, tmp_path: Path) -> None:
    batch = [np.ones((1, 3), np.int32), np.ones((1, 10), np.int32)]
    packed = encoder(toy, tmp_path, token_budget=1000).encode(batch, never)
    assert (packed.padding_avoided, packed.filler) == (2 * 10 - 13, 0)
    padded = encoder(toy, tmp_path, layout="padded", token_budget=1000).encode(batch, never)
    assert (padded.padding_avoided, padded.filler) == (0, 2 * 10 - 13)


def test_the_model_is_probed(toy: Any, tmp_path: Path) -> None:
    assert encoder(toy, tmp_path).probe() == 8
    wrong = BatchEncoder(
        OnnxRuntimeRunner(toy.save(tmp_path / "m.onnx"), 1),
        EncoderSettings(**(BASE | {"task": "classification"})),
    )
    with pytest.raises(ValueError, match="no output 'scores'"):
        wrong.probe()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.full((1, 3), -1, np.int32), "row 0 of input_ids holds no token"),
        (np.array([[5, 6], [-1, -1]], np.int32), "row 1 of input_ids holds no token"),
        (np.zeros((1, 0), np.int32), r"int32 [1, 0]"),
        (np.zeros((0, 4), np.int32), r"int32 [0, 4]"),
        (np.zeros(4, np.int32), r"int32 [4]"),
        (np.zeros((1, 4), np.int64), r"int64 [1, 4]"),
        (np.array([[1, 30522]], np.int32), "the vocabulary ends at 30521"),
        (np.ones((1, 31), np.int32), "31 tokens; the model takes 30"),
    ],
)
def test_an_invalid_request_fails_alone(toy: Any, tmp_path: Path, bad: np.ndarray, says: str) -> None:
    good = requests(3)
    batch = [good[0], bad, *good[1:]]
    model = encoder(toy, tmp_path, vocab_size=30522, max_length=30)
    answer = model.encode(batch, never)
    failed = answer.results.pop(1)
    assert isinstance(failed, Failed)
    assert failed.kind is Failure.INVALID
    assert says in failed.message
    for matrix, result in zip(good, answer.results, strict=True):
        check(toy, matrix, result)


def test_only_invalid_requests(toy: Any, tmp_path: Path) -> None:
    answer = encoder(toy, tmp_path).encode([np.full((1, 3), -1, np.int32)], never)
    assert isinstance(answer.results[0], Failed)
    assert answer.run_tokens == []


def test_cancelled_requests_cost_nothing(toy: Any, tmp_path: Path) -> None:
    batch = requests(6)
    answer = encoder(toy, tmp_path).encode(batch, lambda index: index in (1, 4))
    for index, (matrix, result) in enumerate(zip(batch, answer.results, strict=True)):
        if index in (1, 4):
            assert isinstance(result, Failed)
            assert result.kind is Failure.CANCELLED
        else:
            check(toy, matrix, result)
    kept = [matrix for index, matrix in enumerate(batch) if index not in (1, 4)]
    assert sum(answer.run_tokens) == sum(int((matrix >= 0).sum()) for matrix in kept)


class Wrapped:
    """The real runner, with something happening before each run."""

    threads = 1
    ragged = False
    filler = 0

    def __init__(self, runner: OnnxRuntimeRunner, before: Any) -> None:
        self.runner, self.before = runner, before

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        self.before(inputs)
        return self.runner.run(inputs)


def test_requests_cancelled_between_runs_are_dropped(toy: Any, tmp_path: Path) -> None:
    runs: list[int] = []

    def before(inputs: Mapping[str, np.ndarray]) -> None:
        runs.append(inputs["input_ids"].size)
        time.sleep(0.01)

    runner = Wrapped(OnnxRuntimeRunner(toy.save(tmp_path / "m.onnx"), 1), before)
    model = BatchEncoder(runner, EncoderSettings(**(BASE | {"token_budget": 10})))
    batch = [np.ones((1, 10), np.int32) for _ in range(4)]
    answer = model.encode(batch, lambda index: len(runs) >= 2)
    assert runs == [10, 10]
    assert [isinstance(result, Failed) for result in answer.results] == [False, False, True, True]


def test_a_failing_run_fails_its_own_requests_only(toy: Any, tmp_path: Path) -> None:
    # Without vocab_size the id reaches the engine, which refuses it.
    bad = np.full((1, 10), 10**6, np.int32)
    batch = [np.ones((1, 10), np.int32), bad, np.ones((1, 10), np.int32)]
    answer = encoder(toy, tmp_path, token_budget=10).encode(batch, never)
    first, failed, last = answer.results
    assert isinstance(failed, Failed)
    assert failed.kind is Failure.ENGINE
    assert "out of data bounds" in failed.message
    check(toy, batch[0], first)
    check(toy, batch[2], last)


def test_asking_about_cancellation_stops_where_it_does_not_pay(toy: Any, tmp_path: Path) -> None:
    model = encoder(toy, tmp_path, token_budget=10**6)
    asked: list[int] = []

    def ask(index: int) -> bool:
        asked.append(index)
        return False

    many = [np.ones((1, 100), np.int32) for _ in range(200)]
    model.encode(many, ask)
    assert len(asked) == 200, "nothing is known of the speed before the first run"
    asked.clear()
    # The toy needs far less than a microsecond a token: a token is not worth a question.
    model.encode([np.ones((1, 1), np.int32)] * 4, ask)
    assert asked == []
