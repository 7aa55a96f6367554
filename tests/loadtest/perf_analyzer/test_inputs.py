from __future__ import annotations

import json

import pytest

from loadtest.perf_analyzer import Form
from loadtest.perf_analyzer.inputs import encoder_data, generation_data

# Written by genai-perf 0.0.16: profile --endpoint-type kserve --streaming --output-tokens-mean 16
# --output-tokens-mean-deterministic, with --backend vllm and --backend tensorrtllm.
GENAI_PERF = {
    Form.VLLM: r"""{"data": [{
      "model": "smollm2",
      "text_input": [" heavy bier NURSE O Tybalt"],
      "exclude_input_in_output": [true],
      "stream": [true],
      "sampling_parameters": ["{\"max_tokens\":\"16\",\"min_tokens\":\"16\"}"]
    }]}""",
    Form.TENSORRT_LLM: r"""{"data": [{
      "model": "smollm2",
      "text_input": [" heavy bier NURSE O Tybalt"],
      "max_tokens": [16],
      "exclude_input_in_output": [true],
      "stream": [true],
      "min_length": [16]
    }]}""",
}


@pytest.mark.parametrize("form", GENAI_PERF)
def test_forms_are_those_of_genai_perf(form: Form) -> None:
    prompts = [" heavy bier NURSE O Tybalt"]
    assert generation_data(form, "smollm2", prompts, 16) == json.loads(GENAI_PERF[form])


def test_own_form_has_a_step_for_each_prompt() -> None:
    steps = generation_data(Form.OWN, "m", ["a", "b"], 7)["data"]
    assert steps[1] == {"text_input": ["b"], "max_tokens": [7], "ignore_eos": [True], "stream": [True]}


def test_encoders_have_a_step_for_each_text() -> None:
    assert encoder_data("text", ["a", "b"])["data"][1] == {"text": {"content": ["b"], "shape": [1]}}
