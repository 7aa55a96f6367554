from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_every_way_to_compute_has_a_row(tiny_generation_repository: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "loadtest.bench_exactness", "tinygen"),
            *("--repository", str(tiny_generation_repository), "--prompts", "3", "--tokens", "6"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "tinygen, fp16: 3 answers of 6" in done.stdout
    rows = [line for line in done.stdout.splitlines() if " of 3 " in line]
    assert [row.split()[1] for row in rows] == ["f32", "f32", "f32"]
    assert "3 of 3" in rows[0]
    assert "without bf16, which needs heads of 32" in done.stdout  # the tiny model has heads of 16
