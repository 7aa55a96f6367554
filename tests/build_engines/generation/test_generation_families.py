"""Families of models: what is served says what transformers says; what cannot be served is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tritonforge.errors import ExportError


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral", "phi", "gpt2", "gpt_neox"])
def test_a_family_is_served_as_it_is(
    tiny_family: Callable[..., Path], family: str, new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    """In float32, so that what is left is the graph and the engine's paged attention."""
    report = new_builder(tiny_family(family), tmp_path)(precision="fp32", until="gate")
    found = report.figures("check")["openvino-genai-fp32"]
    assert abs(found["perplexity_rise"]) < 1e-4
    assert found["kl"] < 1e-6 and found["top1"] > 0.999
    assert found["answers"]["apart"] < 1e-3
    assert found["answers"]["tokens"] > 24  # a long prompt among them, split over several steps
    assert report.gate["verdicts"]["openvino-genai-fp32"]["passed"]


@pytest.mark.parametrize(
    ("family", "says"), [("mixtral", "cannot be traced"), ("bloom", "attends in a way of its own")]
)
def test_what_cannot_be_exported(
    tiny_family: Callable[..., Path], family: str, says: str, new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    builder = new_builder(tiny_family(family), tmp_path)
    with pytest.raises(ExportError, match=says) as caught:
        builder()
    assert caught.value.mend and "Llama" in caught.value.mend
    assert not builder.repository.exists()
