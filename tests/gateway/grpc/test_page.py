"""The Python of docs/gateway_grpc.md, run as a reader would run it, through Envoy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.gateway.conftest import ALL_SCOPES, Door

ROOT = Path(__file__).parents[3]


def test_the_examples_run(door: Door) -> None:
    page = (ROOT / "docs" / "gateway_grpc.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    printed = []
    for example in examples:
        assert "127.0.0.1:8080" in example
        ran = subprocess.run(
            [sys.executable, "-c", example.replace("127.0.0.1:8080", door.address)],
            cwd=ROOT,
            env=os.environ | {"TOKEN": door.mint(ALL_SCOPES)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr
        printed.append(ran.stdout)
    assert printed[0].startswith("embed 32 ")
    assert "16 FINISH_REASON_LENGTH" in printed[0]
    assert "'' classification.text is empty" in printed[0] or "'' requests.1" in printed[0]
    assert printed[1].strip() in page
