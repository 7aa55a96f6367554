"""`tritonforge validate` on a generator: what was built passes, and what was spoilt afterwards does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tritonforge.cli import app
from tritonforge.cli.validate import is_generator
from tritonforge.errors import EngineError, RepositoryError, UsageError


@pytest.fixture
def repository(tiny_generation_repository: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt; the folder has the one model."""
    names = [path.name for path in tiny_generation_repository.iterdir()]
    name = next(name for name in names if is_generator(tiny_generation_repository, name))
    shutil.copytree(tiny_generation_repository / name, tmp_path / "repository" / name)
    return tmp_path / "repository"


def run(repository: Path, *options: str) -> tuple[int, Any]:
    (folder,) = repository.iterdir()
    result = CliRunner().invoke(
        app, ["validate", folder.name, "--repository", str(repository), "--json", *options]
    )
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout)


def outcomes(found: Any) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in found["verdicts"][0]["checks"]}


def version_of(repository: Path) -> Path:
    (folder,) = repository.iterdir()
    return next(path for path in folder.iterdir() if path.is_dir())


def test_what_was_built_passes(repository: Path) -> None:
    code, found = run(repository)
    assert (code, found["passed"]) == (0, True), found
    assert outcomes(found) == {
        "tokenizer": "pass",
        "stop_tokens": "pass",
        "answers.agreement": "pass",
        "answers.log_prob": "pass",
        "answers.neighbours": "pass",
        "answers.ends": "pass",
    }
    (verdict,) = found["verdicts"]
    assert verdict["subject"].startswith("openvino-genai-")
    figures = {check["name"]: check["figure"] for check in verdict["checks"]}
    assert figures["answers.agreement"] > 0.97
    assert figures["answers.log_prob"] < 0.02


def test_other_prompts(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("It rains.\n\nA fire near Sydney\n")
    code, found = run(repository, "--texts", str(tmp_path / "prompts.txt"))
    assert code == 0
    assert "2 of 2 answers are the same" in found["verdicts"][0]["checks"][4]["detail"]


def test_other_weights(repository: Path) -> None:
    weights = version_of(repository) / "openvino_model.bin"
    numbers = np.frombuffer(weights.read_bytes(), np.float16).copy()
    half = len(numbers) // 2
    numbers[half:] = numbers[half:][::-1]
    weights.unlink()  # it may be a hard link to the build's own
    weights.write_bytes(numbers.tobytes())
    code, found = run(repository)
    assert code == 1
    assert outcomes(found)["answers.log_prob"] == "fail"


def test_other_stop_tokens(repository: Path) -> None:
    (folder,) = repository.iterdir()
    config = (folder / "config.pbtxt").read_text()
    begin = config.index("stop_token_ids")
    value = config[begin:].split('string_value: "')[1].split('"')[0]
    (folder / "config.pbtxt").write_text(
        config[:begin] + config[begin:].replace(f'string_value: "{value}"', 'string_value: "3"', 1)
    )
    code, found = run(repository)
    assert code == 1
    assert outcomes(found)["stop_tokens"] == "fail"


def test_another_tokenizer(repository: Path) -> None:
    path = version_of(repository) / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = content["model"]["merges"][:5]
    path.unlink()
    path.write_text(json.dumps(content))
    code, found = run(repository)
    assert code == 1
    assert outcomes(found)["tokenizer"] == "fail"


def test_damaged_files(repository: Path) -> None:
    (version_of(repository) / "openvino_model.xml").write_text("<nothing>")
    with pytest.raises(EngineError, match="does not load"):
        run(repository)
    (folder,) = repository.iterdir()
    (folder / "config.pbtxt").write_text("{")
    with pytest.raises(RepositoryError, match="cannot be read"):
        run(repository)


def test_labelled_data_have_no_meaning(repository: Path) -> None:
    with pytest.raises(UsageError, match="--labelled"):
        run(repository, "--labelled", "some.jsonl")
