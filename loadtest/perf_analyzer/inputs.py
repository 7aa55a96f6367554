"""What perf_analyzer sends: its input file, in the names that a model takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from loadtest.perf_analyzer.plan import Form


def encoder_data(name: str, texts: Sequence[str]) -> dict[str, Any]:
    """One step for each text, which perf_analyzer takes in turn.

    Args:
        name: Of the model's input.
        texts: To send.
    """
    return {"data": [{name: {"content": [text], "shape": [1]}} for text in texts]}


def generation_data(form: Form, model: str, prompts: Sequence[str], tokens: int) -> dict[str, Any]:
    """Streamed requests for exactly ``tokens`` tokens, in one of the forms."""
    steps: list[dict[str, Any]] = []
    for prompt in prompts:
        step: dict[str, Any]
        if form is Form.OWN:
            step = {"text_input": [prompt], "max_tokens": [tokens], "ignore_eos": [True], "stream": [True]}
        elif form is Form.VLLM:
            # genai-perf writes the numbers as strings.
            sampling = {"max_tokens": f"{tokens}", "min_tokens": f"{tokens}"}
            step = {
                "model": model,
                "text_input": [prompt],
                "exclude_input_in_output": [True],
                "stream": [True],
                "sampling_parameters": [json.dumps(sampling, separators=(",", ":"))],
            }
        else:
            step = {
                "model": model,
                "text_input": [prompt],
                "max_tokens": [tokens],
                "exclude_input_in_output": [True],
                "stream": [True],
                "min_length": [tokens],
            }
        steps.append(step)
    return {"data": steps}
