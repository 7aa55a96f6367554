from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture
def build_dir(tmp_path: Path) -> Path:
    """Reports of its own over the artefacts of the checkout, so that the export is paid once."""
    artifacts = Path(os.environ.get("TRITONFORGE_TEST_BUILD", CHECKOUT / "build")) / "smollm2" / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    folder = tmp_path / "build" / "smollm2"
    folder.mkdir(parents=True)
    (folder / "artifacts").symlink_to(artifacts)
    return folder.parent


@pytest.mark.slow
@pytest.mark.timeout(1800)  # an export may be part of it
@pytest.mark.skipif(find_spec("openvino_genai") is None, reason="openvino-genai is not installed")
def test_the_chat_demo(build_dir: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tritonforge.cli", "demo-chat"),
            *("--repository", str(tmp_path / "repository"), "--build-dir", str(build_dir)),
        ],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "COLUMNS": "160", "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("tokens, first after") == 3
    first, second = done.stdout.split("> What is the name of my dog?")
    assert "Rex" in first and "Rex" in second.splitlines()[1]  # as greedy SmolLM2 answers
    counted = {row.split()[1]: row.split()[-2] for row in second.splitlines() if row.startswith("│")}
    assert counted["finished_requests_total"] == "3"
    assert float(counted["tokens_total"]) > 0
    assert float(counted["time_to_first_token_seconds"]) > 0
    assert float(counted["time_per_output_token_seconds"]) > 0
    assert "The server has stopped" in second
