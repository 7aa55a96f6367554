"""What the gate makes of a generator's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from build_engines.gate.verdict import Verdict
from build_engines.gate.wording import describe_failure
from build_engines.generation.context import GeneratorCandidate
from build_engines.generation.fidelity import NO_TIE
from build_engines.generation.judge import judge_generator
from build_engines.generation.steps.gate import fastest
from tritonforge.recipe import Recipe


def judge(
    precision: Any, rise: float | None, apart: float = 0.0, generation: Any = None, gate: Any = None
) -> Verdict:
    checked = {
        "perplexity": None if rise is None else 10 * (1 + rise),
        "reference_perplexity": 10.0,
        "perplexity_rise": rise,
        "places": 500,
        "source": "a file",
        "top1": 0.9,
        "kl": 0.01,
        "answers": {"prompts": 5, "same": 4, "tokens": 80, "apart": apart, "worst": []},
    }
    recipe = Recipe.model_validate(
        {
            "name": "toy",
            "model": "toy",
            "task": "generation",
            "precision": precision,
            "generation": generation or {},
            "gate": gate or {},
        }
    )
    return judge_generator(GeneratorCandidate("openvino-genai", precision, Path(), checked), recipe)


def failed(verdict: Verdict) -> list[str]:
    assert all(check.mend for check in verdict.failures)
    return [check.name for check in verdict.failures]


@pytest.mark.parametrize(
    ("precision", "limit"), [("fp32", 0.02), ("fp16", 0.02), ("int8-weights", 0.05), ("int4-weights", 0.1)]
)
def test_perplexity_may_rise_by_so_much(precision: Any, limit: float) -> None:
    assert failed(judge(precision, limit - 1e-6)) == []
    assert failed(judge(precision, limit + 1e-6)) == ["perplexity"]
    assert failed(judge(precision, -0.5)) == []


def test_numbers_that_are_none_fail() -> None:
    verdict = judge("int8-weights", None)
    assert failed(verdict) == ["perplexity"]
    assert "no finite numbers" in describe_failure(verdict.failures[0])


def test_the_recipe_sets_the_limit() -> None:
    assert failed(judge("int4-weights", 0.2, gate={"perplexity_rise": 0.25})) == []
    assert failed(judge("fp16", 0.001, gate={"perplexity_rise": 0})) == ["perplexity"]


@pytest.mark.parametrize("apart", [0.11, NO_TIE])
def test_exact_answers_part_at_near_ties_only(apart: float) -> None:
    assert failed(judge("fp16", 0, 0.09)) == []
    assert failed(judge("fp16", 0, apart)) == ["answers"]
    assert failed(judge("fp16", 0, apart, {"kv_cache_precision": "f16"})) == ["answers"]


@pytest.mark.parametrize(
    ("precision", "generation"),
    [
        ("int8-weights", {}),
        ("int4-weights", {}),
        ("fp16", {"compute": "bf16"}),
        ("fp16", {"kv_cache_precision": "u8"}),
    ],
)
def test_rounded_answers_are_told_and_not_judged(precision: Any, generation: Any) -> None:
    verdict = judge(precision, 0, NO_TIE, generation)
    assert verdict.passed
    (answers,) = (check for check in verdict.checks if check.name == "answers")
    assert answers.outcome == "skipped" and "4 of 5" in answers.detail


def test_what_could_not_run_is_not_judged() -> None:
    recipe = Recipe.model_validate(
        {"name": "toy", "model": "toy", "task": "generation", "engine": "tensorrt-llm"}
    )
    verdict = judge_generator(GeneratorCandidate("tensorrt-llm", "bf16", Path()), recipe)
    assert verdict.passed and [check.outcome for check in verdict.checks] == ["skipped"]


def test_the_fastest_of_many_streams_is_taken() -> None:
    slow, quick, unknown = (GeneratorCandidate("openvino-genai", p, Path()) for p in ("fp32", "fp16", "bf16"))
    slow.speed = {"tokens_per_second": {"1": 90.0, "8": 200.0}}
    quick.speed = {"tokens_per_second": {"1": 80.0, "8": 300.0}}
    assert fastest([slow, quick, unknown]) is quick
