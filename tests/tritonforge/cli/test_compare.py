"""`tritonforge compare`: what it refuses, and the page from figures; tests/loadtest/peers measures."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.loadtest.peers.figures import comparison, row
from tritonforge.cli import app
from tritonforge.errors import TritonForgeError

CHECKOUT = Path(__file__).parents[3]
RECIPE = str(CHECKOUT / "recipes" / "minilm.yaml")


@pytest.mark.parametrize(
    ("arguments", "message", "mend"),
    [
        (["--peers", "nobody"], "no peer is called 'nobody'", "fastapi-int8"),
        (["--connections", "1,x"], "is no list of numbers", "--connections 1,16,64"),
        (["--connections", "0"], "is no list of numbers", "--connections 1,16,64"),
        (["--mix", "8:"], "our own models are not built", "tritonforge compare install"),
        (["--mix", "x"], "not a length mix", "--mix 6:1"),
        (["--recipe", str(CHECKOUT / "recipes" / "smollm2.yaml")], "task is generation", "embedding model"),
    ],
)
def test_what_cannot_be_compared_says_what_to_do(
    arguments: list[str], message: str, mend: str, tmp_path: Path
) -> None:
    given = ["compare", "--recipe", RECIPE, "--root", str(tmp_path), *arguments]
    result = CliRunner().invoke(app, given)
    error = result.exception
    assert isinstance(error, TritonForgeError), result.output
    assert error.exit_code == 2
    assert message in error.what
    assert mend in (error.mend or "")


def test_the_page_is_written_again_from_the_figures(tmp_path: Path) -> None:
    made = comparison(row("ours", {1: [200]}, ours=True), row("peer", {1: [100]}))
    (tmp_path / "comparison.json").write_text(made.model_dump_json())
    page = tmp_path / "docs" / "page.md"
    arguments = ["compare", "page", "--root", str(tmp_path), "--output", str(page)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "2.00 of Peer" in page.read_text()


def test_the_page_in_the_docs_is_what_the_command_writes() -> None:
    page = (CHECKOUT / "docs" / "benchmarks.md").read_text()
    assert page.startswith("# Benchmarks: the same load on peers\n\n`tritonforge compare")
    for heading in ("What it came to", "Method", "float32", "INT8", "What cannot be compared", "Again"):
        assert f"\n## {heading}\n" in page
