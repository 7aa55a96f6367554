"""The real engine, with a tiny model, through the same protocol that the loop uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tritonclient.grpc import model_config_pb2 as pb

from python_backends.generator.openvino_genai import OpenVinoGenerator
from python_backends.generator.prefixes import PrefixLedger
from python_backends.generator.protocol import FinishReason, RefusedError, SamplingParams
from python_backends.generator.settings import BLOCK, GeneratorSettings

Open = Callable[..., OpenVinoGenerator]
Prompt = NDArray[np.int64]
TOKENS = 24


@pytest.fixture(scope="session")
def version(tiny_generation_repository: Path) -> Path:
    return tiny_generation_repository / "tinygen" / "1"


@pytest.fixture(scope="session")
def settings(version: Path) -> GeneratorSettings:
    config = text_format.Parse((version.parent / "config.pbtxt").read_text("utf-8"), pb.ModelConfig())
    return GeneratorSettings.parse(json.dumps(json_format.MessageToDict(config, True, True)))


@pytest.fixture
def open_engine(version: Path, settings: GeneratorSettings) -> Open:
    return lambda **changes: OpenVinoGenerator(version, replace(settings, **changes))


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    numbers = np.random.default_rng(3)
    return [numbers.integers(5, 250, size, dtype=np.int64) for size in (1, 3, 17, 33, 64, 90, 130, 7)]


def run(
    engine: OpenVinoGenerator, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]
) -> list[list[int]]:
    several = [params] * len(prompts) if isinstance(params, SamplingParams) else params
    for key, (prompt, each) in enumerate(zip(prompts, several, strict=True)):
        engine.add(key, prompt, each)
    answers: list[list[int]] = [[] for _ in prompts]
    open_keys = set(range(len(prompts)))
    while open_keys:
        for key, progress in engine.step().items():
            assert progress.error is None
            answers[key] += progress.tokens
            if progress.finish is not None:
                open_keys.remove(key)
    return answers


GREEDY = SamplingParams(max_tokens=TOKENS, ignore_eos=True)


def test_greedy_answers_are_the_same_alone_and_together(open_engine: Open, prompts: list[Prompt]) -> None:
    engine = open_engine(max_num_batched_tokens=64)  # so that long prompts are split
    alone = [run(engine, [prompt], GREEDY)[0] for prompt in prompts]
    assert [len(answer) for answer in alone] == [TOKENS] * len(prompts)
    assert len({tuple(answer) for answer in alone}) > len(prompts) // 2  # the model does look at its prompt
    assert run(engine, prompts, GREEDY) == alone
    assert run(engine, prompts[::-1], GREEDY) == alone[::-1]


def test_a_kv_cache_that_is_full_delays_and_changes_nothing(open_engine: Open, prompts: list[Prompt]) -> None:
    expected = run(open_engine(), prompts, GREEDY)
    small = open_engine(kv_cache_tokens=6 * BLOCK)
    assert run(small, prompts, GREEDY) == expected


def test_a_seed_reproduces_among_others(open_engine: Open, prompts: list[Prompt]) -> None:
    engine = open_engine()
    sampled = [replace(GREEDY, temperature=1.5, top_p=0.95, top_k=40, seed=seed) for seed in range(8)]
    alone = [run(engine, [p], params)[0] for p, params in zip(prompts, sampled, strict=True)]
    assert run(engine, prompts, sampled) == alone
    assert run(engine, [prompts[2]], sampled[3]) != [alone[2]]


def test_a_cancelled_sequence_is_gone_with_the_next_step(open_engine: Open, prompts: list[Prompt]) -> None:
    engine = open_engine()
    for key in range(4):
        engine.add(key, prompts[key], replace(GREEDY, max_tokens=200))
    engine.step()
    assert engine.stats().scheduled == 4
    full = engine.stats().kv_used
    engine.cancel(1)
    engine.cancel(2)
    engine.cancel(99)
    assert set(engine.step()) == {0, 3}
    assert engine.stats().scheduled == 2
    assert engine.stats().sequences == 2
    engine.close()
    assert full > 0
    assert engine.stats().sequences == 0


def test_who_comes_as_those_leave_that_fill_the_kv_cache_is_served(
    open_engine: Open, prompts: list[Prompt]
) -> None:
    expected = run(open_engine(), prompts[:2], GREEDY)
    small = open_engine(kv_cache_tokens=8 * BLOCK)
    for key in (8, 9):
        small.add(key, prompts[key - 8], replace(GREEDY, max_tokens=200))
    while small.stats().kv_used < 1:
        small.step()
    small.cancel(8)
    small.cancel(9)
    assert run(small, prompts[:2], GREEDY) == expected


def test_what_was_pushed_out_of_a_full_kv_cache_fails_alone_if_those_in_it_leave(
    open_engine: Open, prompts: list[Prompt]
) -> None:
    small = open_engine(kv_cache_tokens=8 * BLOCK)
    for key in (8, 9):
        small.add(key, prompts[key - 8], replace(GREEDY, max_tokens=200))
    news = small.step()
    while news.keys() == {8, 9}:  # until one waits for blocks
        news = small.step()
    (inside,) = news
    small.cancel(inside)
    ((outside, progress),) = small.step().items()
    assert outside != inside
    assert progress.error is None or "its KV cache cannot hold it" in progress.error
    assert len(run(small, prompts[:1], GREEDY)[0]) == TOKENS


def test_log_probs_are_given_for_each_token_if_asked_for(open_engine: Open, prompts: list[Prompt]) -> None:
    engine = open_engine()
    engine.add(0, prompts[2], replace(GREEDY, log_probs=True, max_tokens=1))
    (progress,) = engine.step().values()
    assert progress.finish is FinishReason.LENGTH
    assert len(progress.log_probs) == len(progress.tokens) == 1
    assert -20 < progress.log_probs[0] < 0


def test_what_the_engine_lacks_is_refused_and_nothing_is_left(
    open_engine: Open, prompts: list[Prompt]
) -> None:
    engine = open_engine()
    with pytest.raises(RefusedError, match="adapter is 'x'"):
        engine.add(0, prompts[0], replace(GREEDY, adapter="x"))
    with pytest.raises(RefusedError, match="openvino-genai refuses"):
        engine.add(0, prompts[0], replace(GREEDY, repetition_penalty=-1.0))
    assert engine.stats().sequences == 0
    assert len(run(engine, prompts[:1], GREEDY)[0]) == TOKENS


def test_after_a_step_that_raised_the_engine_is_as_new(open_engine: Open, prompts: list[Prompt]) -> None:
    engine = open_engine()
    engine.add(0, prompts[0], GREEDY)
    engine.add(1, prompts[1], replace(GREEDY, json_schema='{"type": "nonsense"}'))
    with pytest.raises(RuntimeError, match="nonsense"):
        engine.step()
    engine.reset()
    assert engine.stats().sequences == 0
    assert len(run(engine, prompts[:1], GREEDY)[0]) == TOKENS


def test_a_json_schema_is_kept(open_engine: Open, version: Path, prompts: list[Prompt]) -> None:
    tokenizer = Tokenizer.from_file(str(version / "tokenizer.json"))
    schema = json.dumps({"type": "string", "enum": ["yes", "no"]})
    params = SamplingParams(max_tokens=40, json_schema=schema)
    answers = run(open_engine(), prompts[:3], params)
    assert {json.loads(tokenizer.decode(answer)) for answer in answers} <= {"yes", "no"}


def test_prompt_lookup_changes_no_answer_and_reserves_its_room(
    open_engine: Open, prompts: list[Prompt]
) -> None:
    repeating = [np.tile(prompt[:9], 5) for prompt in prompts[2:6]]
    expected = run(open_engine(), repeating, GREEDY)
    lookup = open_engine(prompt_lookup_tokens=3)
    assert run(lookup, repeating, GREEDY) == expected
    with pytest.raises(RefusedError, match="min_tokens"):
        lookup.add(0, prompts[0], replace(GREEDY, min_tokens=2))
    tight = open_engine(prompt_lookup_tokens=3, kv_cache_tokens=4 * BLOCK)
    tight.add(0, repeating[0], GREEDY)  # 45 + 24 + 4 tokens: 3 blocks
    assert not tight.has_room(len(repeating[1]), GREEDY)
    tight.close()
    assert tight.has_room(len(repeating[1]), GREEDY)


def test_the_ledger_counts_whole_blocks_but_for_the_last_token() -> None:
    ledger = PrefixLedger(blocks=8)
    prompt = np.arange(3 * BLOCK, dtype=np.int64)
    ledger.begin(1, prompt)
    assert ledger.hits == 0
    ledger.begin(2, prompt)
    assert ledger.hits == 3 * BLOCK - 1
    ledger.grow(2, list(range(BLOCK)))
    ledger.begin(3, np.concatenate([prompt, np.arange(BLOCK + 5)]))
    assert ledger.hits == 3 * BLOCK - 1 + 4 * BLOCK
    ledger.begin(4, prompt + 1)
    assert ledger.hits == 3 * BLOCK - 1 + 4 * BLOCK
    for key in (1, 2, 3, 4):
        ledger.end(key)


def test_the_ledger_forgets_what_a_cache_of_that_size_cannot_hold() -> None:
    ledger = PrefixLedger(blocks=2)
    first, second = np.arange(2 * BLOCK), np.arange(5, 2 * BLOCK + 5)
    ledger.begin(1, first)
    ledger.begin(2, second)
    ledger.begin(3, first)
    assert ledger.hits == 0
