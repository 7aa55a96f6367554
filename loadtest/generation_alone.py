"""A generation model's engine without a server, and transformers' ``generate``: what the server is held to.

Each runs in a process of its own: one function loads, one runs a round. Texts are tokenized within the time
that is measured, as the server does; tokens are **not** turned back into text, which the server does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from loadtest.generation_client import Answer, Turn
from python_backends.generator.settings import GeneratorSettings

_loaded: dict[str, Any] = {}


def load_engine(folder: Path, config: Mapping[str, Any], threads: int) -> None:
    """Load the published files into a ``ContinuousBatchingPipeline``, set as when they are served.

    Args:
        folder: The version folder.
        config: The model configuration that the server gives.
        threads: Of the engine.
    """
    from python_backends.generator.openvino_genai import load_pipeline

    settings = GeneratorSettings.parse(config)
    _loaded["pipeline"] = load_pipeline(folder, settings, threads)
    _loaded["tokenizer"] = Tokenizer.from_file(str(folder / "tokenizer.json"))
    _loaded["special"] = settings.add_special_tokens


def run_engine(prompts: Sequence[str], streams: int, tokens: int) -> Turn:
    """Generate ``tokens`` tokens for each prompt, ``streams`` at a time.

    A new request is added as soon as one ends, and every handle is read after every step: what it takes to
    stream.
    """
    import openvino as ov
    import openvino_genai as genai

    pipeline, tokenizer = _loaded["pipeline"], _loaded["tokenizer"]
    pending = iter(enumerate(prompts))
    live: dict[int, _Running] = {}
    answers: list[Answer] = []

    def add() -> None:
        for key, prompt in pending:
            sent = time.perf_counter()
            ids = tokenizer.encode(prompt, add_special_tokens=_loaded["special"]).ids
            config = genai.GenerationConfig()
            config.max_new_tokens = tokens
            config.ignore_eos = True
            handle = pipeline.add_request(key, ov.Tensor(np.array([ids], dtype=np.int64)), config)
            live[key] = _Running(handle, sent, len(ids))
            return

    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(streams):
        add()
    while live:
        pipeline.step()
        for key, running in list(live.items()):
            if running.read():
                answers.append(live.pop(key).answer())
                add()
    return Turn.of(answers, time.perf_counter() - start, time.process_time() - cpu)


class _Running:
    """A sequence in the engine."""

    def __init__(self, handle: Any, sent: float, prompt_tokens: int) -> None:
        self._handle = handle
        self._sent = sent
        self._prompt_tokens = prompt_tokens
        self._ids: list[int] = []
        self._times: list[float] = []

    def read(self) -> bool:
        """Read what the last step gave; True if it was the last."""
        if not self._handle.can_read():
            return False
        (output,) = self._handle.read().values()
        self._ids += output.generated_ids
        self._times.append(time.perf_counter() - self._sent)
        return bool(output.finish_reason.value)

    def answer(self) -> Answer:
        """All of it."""
        return Answer(
            "", len(self._ids), self._prompt_tokens, len(self._times), self._times[0], self._times[-1]
        )


def load_transformers(source: str, threads: int) -> None:
    """Load the model that the engine was made of into torch, in float32.

    Args:
        source: ``model`` of the recipe.
        threads: Of torch.
    """
    import torch
    from transformers import AutoTokenizer

    from build_engines.generation.load import as_safetensors, load_causal

    torch.set_num_threads(threads)
    with as_safetensors(source) as files:
        _loaded["model"] = load_causal(files, "sdpa")
        tokenizer: Any = AutoTokenizer.from_pretrained(files.folder, padding_side="left")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _loaded["tokenizer"] = tokenizer


def run_transformers(prompts: Sequence[str], streams: int, tokens: int) -> Turn:
    """``generate`` on batches of ``streams`` prompts, padded on the left, greedy."""
    import torch
    import transformers

    model, tokenizer = _loaded["model"], _loaded["tokenizer"]
    settings = transformers.GenerationConfig(  # type: ignore[no-untyped-call]  # the library is untyped
        do_sample=False,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    answers: list[Answer] = []
    start, cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(prompts), streams):
        sent = time.perf_counter()
        times: list[float] = []

        def note(ids: Any, scores: Any, times: list[float] = times, sent: float = sent) -> Any:
            """Called after every token."""
            times.append(time.perf_counter() - sent)
            return torch.zeros(len(ids), dtype=torch.bool)

        batch = tokenizer(list(prompts[first : first + streams]), return_tensors="pt", padding=True)
        with torch.inference_mode():
            output = model.generate(
                **batch,
                generation_config=settings,
                stopping_criteria=transformers.StoppingCriteriaList([note]),
            )
        made = output.shape[1] - batch["input_ids"].shape[1]
        lengths = batch["attention_mask"].sum(1).tolist()
        answers += [Answer("", made, length, made, times[0], times[-1]) for length in lengths]
    return Turn.of(answers, time.perf_counter() - start, time.process_time() - cpu)
