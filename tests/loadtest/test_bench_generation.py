from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import loadtest

ROOT = Path(loadtest.__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "loadtest.bench_generation", *arguments]
    return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_sides_take_turns_with_equal_work(tiny_generation_repository: Path, tmp_path: Path) -> None:
    (tokenizer,) = tiny_generation_repository.glob("*/*/tokenizer.json")
    recipe, figures = tmp_path / "recipe.yaml", tmp_path / "made" / "figures.json"
    recipe.write_text(f"name: {tokenizer.parents[1].name}\nmodel: nowhere\ntask: generation\n")
    done = run(
        *(str(recipe), "--repository", str(tiny_generation_repository), "--json", str(figures)),
        *("--log", str(tmp_path / "server.log"), "--sides", "engine", "grpc", "sse", "--threads", "1"),
        *("--streams", "1", "3", "--tokens", "8", "--rounds", "2", "--mix", "2,5"),
    )
    assert done.returncode == 0, done.stderr
    assert "1 thread(s) for each side's engine" in done.stdout
    result = json.loads(figures.read_text())
    assert [point["streams"] for point in result["points"]] == [1, 3]
    for point in result["points"]:
        sides = point["sides"]
        assert list(sides) == ["engine", "grpc", "sse"]
        for name, side in sides.items():
            assert len(side["tokens_per_second_of_rounds"]) == 2
            assert 0 < side["first_token_ms"]["p50"] <= side["first_token_ms"]["p90"]
            # Other beginnings, so that nobody is answered from the prefix cache, but prompts as long.
            assert side["mean_prompt_tokens"] == pytest.approx(sides["engine"]["mean_prompt_tokens"], abs=4)
            assert (side["server_cpu_share"] > 0) == (name != "engine")
        ratio = sides["grpc"]["tokens_per_second"] / sides["engine"]["tokens_per_second"]
        assert sides["grpc"]["ratio_of_medians"] == pytest.approx(ratio)
        assert len(sides["sse"]["ratios"]) == 2


def test_another_task_is_an_error_with_a_mend(tmp_path: Path) -> None:
    done = run(str(ROOT / "recipes" / "minilm.yaml"))
    assert done.returncode == 1
    assert "mend: give a recipe with task generation" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mix_that_cannot_be_read_is_a_usage_error() -> None:
    done = run(str(ROOT / "recipes" / "smollm2.yaml"), "--mix", "long")
    assert done.returncode == 2
    assert "--mix: not a length mix: 'long'" in done.stderr
    assert "Traceback" not in done.stderr
