from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)  # an export may be part of it
def test_the_demo(minilm_build_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tritonforge.cli", "demo"]
    folders = ["--repository", str(tmp_path / "repository"), "--build-dir", str(minilm_build_root)]
    done = subprocess.run(
        [*command, *folders],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "COLUMNS": "160", "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for part in ("cosine similarity", "How do I reset my password?", "executions", "tokens computed"):
        assert part in done.stdout
    assert "The server has stopped" in done.stdout
    assert {path.name for path in (tmp_path / "repository").iterdir()} == {
        "minilm",
        "minilm_tokenizer",
        "minilm_engine",
    }
