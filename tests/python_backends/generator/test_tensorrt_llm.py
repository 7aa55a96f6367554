"""The TensorRT-LLM engine without TensorRT-LLM: what it passes on, what it reads, and how it steps.

The library itself is not imitated: nothing here says that it does what its documentation says.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest

from python_backends.generator import tensorrt_llm, tensorrt_llm_api
from python_backends.generator.protocol import FinishReason, Progress, RefusedError, SamplingParams
from python_backends.generator.settings import GeneratorSettings
from python_backends.generator.streams import Streams
from python_backends.generator.tensorrt_llm import (
    TensorRtLlmGenerator,
    cache_tokens,
    check_request,
    check_settings,
    engine_stats,
    find_adapters,
    llm_arguments,
    progress_reader,
    sampling_arguments,
)
from python_backends.generator.tensorrt_llm_api import Library

NAMES: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("tensorrt_llm_names.json").read_text(encoding="utf-8")
)["names"]
SETTINGS = GeneratorSettings(engine="tensorrt-llm", kv_cache_tokens=4096, max_length=512)
STOPS = (2, 7)

# Our description of each class or method, and its name in the list.
DESCRIBED = {
    "LLM": tensorrt_llm_api.MakeLlm.__call__,
    "LLM.generate_async": tensorrt_llm_api.Llm.generate_async,
    "LLM.get_stats_async": tensorrt_llm_api.Llm.get_stats_async,
    "SamplingParams": tensorrt_llm_api.MakeSamplingParams.__call__,
    "GuidedDecodingParams": tensorrt_llm_api.MakeGuidedDecodingParams.__call__,
    "KvCacheConfig": tensorrt_llm_api.MakeKvCacheConfig.__call__,
    "NGramDecodingConfig": tensorrt_llm_api.MakeNGramDecodingConfig.__call__,
    "LoraConfig": tensorrt_llm_api.MakeLoraConfig.__call__,
    "LoRARequest": tensorrt_llm_api.MakeLoraRequest.__call__,
}


def keywords(callable_: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(callable_).parameters) - {"self"}


@pytest.mark.parametrize("name", list(DESCRIBED))
def test_every_parameter_is_one_that_the_library_documents(name: str) -> None:
    assert keywords(DESCRIBED[name]) <= set(NAMES[name])


@pytest.mark.parametrize("name", ["CompletionOutput", "RequestOutput"])
def test_every_attribute_is_one_that_the_library_documents(name: str) -> None:
    described = getattr(tensorrt_llm_api, name)
    public = {attribute for attribute in vars(described) if not attribute.startswith("_")}

    assert public
    assert public <= set(NAMES[name])


def test_the_places_are_the_fields_of_the_library() -> None:
    assert set(tensorrt_llm_api.PLACES) == {entry.name for entry in fields(Library)} - {"version"}


def test_without_the_library_the_message_says_what_is_needed(tmp_path: Path) -> None:
    try:
        import tensorrt_llm as _  # noqa: F401 - is it there at all
    except Exception:
        with pytest.raises(RuntimeError, match=r"needs an NVIDIA GPU.*trtllm-python-py3.*openvino-genai"):
            TensorRtLlmGenerator(tmp_path, SETTINGS)
    else:
        pytest.skip("TensorRT-LLM is installed")


class TestSamplingArguments:
    def test_temperature_0_is_greedy_and_leaves_no_sampling_value(self) -> None:
        made = sampling_arguments(SamplingParams(max_tokens=5, top_p=0.5, top_k=9, seed=3), STOPS)

        assert made["top_k"] == 1
        assert [made[name] for name in ("temperature", "top_p", "seed")] == [None] * 3

    def test_sampling_always_names_top_p_as_the_engine_would_be_greedy_without(self) -> None:
        made = sampling_arguments(SamplingParams(max_tokens=5, temperature=0.7, seed=3), STOPS)

        assert (made["temperature"], made["top_p"], made["top_k"], made["seed"]) == (0.7, 1.0, None, 3)

    def test_the_first_stop_token_is_the_end_and_the_others_stop_too(self) -> None:
        made = sampling_arguments(SamplingParams(max_tokens=5), STOPS)

        assert (made["end_id"], made["stop_token_ids"], made["pad_id"]) == (2, [7], 2)
        assert made["include_stop_str_in_output"], "else the engine cuts the token off again"

    def test_ignore_eos_names_no_token_that_stops(self) -> None:
        made = sampling_arguments(SamplingParams(max_tokens=5, ignore_eos=True), STOPS)

        assert (made["end_id"], made["stop_token_ids"], made["ignore_eos"]) == (-1, None, True)

    def test_a_model_without_stop_tokens_runs_to_its_length(self) -> None:
        made = sampling_arguments(SamplingParams(max_tokens=5), ())

        assert (made["end_id"], made["stop_token_ids"], made["pad_id"]) == (-1, None, 0)

    def test_penalties_are_passed_on_unless_neutral(self) -> None:
        names = ("repetition_penalty", "presence_penalty", "frequency_penalty")
        plain = sampling_arguments(SamplingParams(max_tokens=5), STOPS)
        asked = SamplingParams(5, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=-0.5)
        made = sampling_arguments(asked, STOPS)

        assert [plain[name] for name in names] == [None] * 3
        assert [made[name] for name in names] == [1.2, 0.5, -0.5]

    def test_the_keywords_are_those_that_the_class_takes(self) -> None:
        made = sampling_arguments(SamplingParams(max_tokens=5), STOPS)

        assert set(made) | {"guided_decoding"} == keywords(DESCRIBED["SamplingParams"])
        assert not made["detokenize"]


@dataclass
class Logprob:
    logprob: float


@dataclass
class Output:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Any] | None = None
    finish_reason: str | None = None


@dataclass
class Result:
    outputs: list[Output]
    finished: bool = False


class TestProgressReader:
    def test_only_new_tokens_are_given_and_the_end_says_why(self) -> None:
        read, output = progress_reader(False), Output([5])
        first = read(Result([output]))
        output.token_ids += [6, 7]
        second = read(Result([output]))
        output.token_ids.append(2)
        output.finish_reason = "stop"

        assert first == Progress((5,))
        assert second == Progress((6, 7))
        assert read(Result([output], finished=True)) == Progress((2,), finish=FinishReason.STOP)

    def test_an_end_without_new_tokens(self) -> None:
        read, output = progress_reader(False), Output([5])
        read(Result([output]))
        output.finish_reason = "length"

        assert read(Result([output], finished=True)) == Progress((), finish=FinishReason.LENGTH)

    def test_log_probabilities_are_those_of_the_chosen_tokens(self) -> None:
        read = progress_reader(True)
        output = Output([5], [{5: Logprob(-0.5), 9: Logprob(-3.0)}])
        first = read(Result([output]))
        output.token_ids.append(6)
        output.logprobs = [*(output.logprobs or ()), -1.5]

        assert first == Progress((5,), (-0.5,))
        assert read(Result([output])) == Progress((6,), (-1.5,))

    def test_a_missing_log_probability_is_an_error_and_not_a_guess(self) -> None:
        other = progress_reader(True)(Result([Output([5], [{9: Logprob(-3.0)}])]))
        none = progress_reader(True)(Result([Output([5], None)]))

        assert other.error == "no log probability came for token 5"
        assert none.error == "0 log probabilities came for 1 tokens"

    @pytest.mark.parametrize("reason", ["timeout", "cancelled", None])
    def test_other_ends_are_errors(self, reason: str | None) -> None:
        made = progress_reader(False)(Result([Output([5], finish_reason=reason)], finished=True))

        assert made.finish is None
        assert made.error == f"the engine gave up: {reason}"


class TestStats:
    ITERATION: ClassVar[dict[str, Any]] = {
        "iter": 9,
        "numActiveRequests": 3,
        "inflightBatchingStats": {"numScheduledRequests": 2},
        "kvCacheStats": {"maxNumBlocks": 200, "usedNumBlocks": 50, "reusedBlocks": 4, "tokensPerBlock": 32},
    }

    def test_they_are_put_into_the_protocol_s_words(self) -> None:
        made = engine_stats(self.ITERATION, sequences=3)

        assert (made.sequences, made.scheduled, made.kv_used, made.prefix_hit_tokens) == (3, 2, 0.25, 128)
        assert cache_tokens(self.ITERATION) == 6400

    def test_before_the_first_iteration_nothing_is_claimed(self) -> None:
        made = engine_stats({}, sequences=1)

        assert (made.sequences, made.scheduled, made.kv_used, made.prefix_hit_tokens) == (1, 0, 0.0, None)
        assert cache_tokens({}) is None

    def test_the_keys_are_listed(self) -> None:
        used = {"inflightBatchingStats", "kvCacheStats"}
        used |= {f"{outer}.{key}" for outer in used for key in self.ITERATION[outer]}

        assert used == set(NAMES["iteration"])


class TestSettings:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"kv_cache_precision": "u8"}, "kv_cache_precision is u8"),
            ({"precision": "int8-weights"}, "ModelOpt"),
        ],
    )
    def test_what_the_engine_lacks_is_refused_at_load(self, values: dict[str, str], message: str) -> None:
        settings = GeneratorSettings("tensorrt-llm", 4096, 512, **values)

        with pytest.raises(ValueError, match=message):
            check_settings(settings)

    def test_prompt_lookup_is_for_plain_greedy_requests(self) -> None:
        settings = GeneratorSettings("tensorrt-llm", 4096, 512, prompt_lookup_tokens=3)

        check_request(SamplingParams(5), settings, {})
        for params in (SamplingParams(5, temperature=0.5), SamplingParams(5, min_tokens=2)):
            check_request(params, SETTINGS, {})
            with pytest.raises(RefusedError, match="with prompt_lookup_tokens only 0"):
                check_request(params, settings, {})

    def test_adapters_are_folders_and_unknown_ones_are_refused(self, tmp_path: Path) -> None:
        for name in ("french", "code"):
            (tmp_path / "adapters" / name).mkdir(parents=True)
            (tmp_path / "adapters" / name / "adapter_config.json").write_text('{"r": 8}')
        (tmp_path / "adapters" / "notes").mkdir()
        found = find_adapters(tmp_path)

        assert list(found) == ["code", "french"]
        check_request(SamplingParams(5, adapter="code"), SETTINGS, found)
        with pytest.raises(RefusedError, match="'german'; the model has: code, french"):
            check_request(SamplingParams(5, adapter="german"), SETTINGS, found)

    def test_the_engine_s_arguments(self, tmp_path: Path) -> None:
        adapter = tmp_path / "adapters" / "code"
        adapter.mkdir(parents=True)
        (adapter / "adapter_config.json").write_text('{"r": 16}')
        classes = {entry.name: dict for entry in fields(Library) if entry.name != "version"}
        library = Library(version="none", **classes)
        settings = GeneratorSettings(
            "tensorrt-llm", 4096, 512, max_num_seqs=100, prompt_lookup_tokens=3, prefix_caching=False
        )
        made = llm_arguments(tmp_path, settings, find_adapters(tmp_path), library)

        assert set(made) == keywords(DESCRIBED["LLM"])
        assert made["kv_cache_config"] == {"enable_block_reuse": False, "max_tokens": 4096, "dtype": "auto"}
        assert made["max_num_tokens"] == 400, "room for each sequence's next token and guesses"
        assert made["lora_config"]["max_lora_rank"] == 16
        assert set(made["lora_config"]) == keywords(DESCRIBED["LoraConfig"])
        assert set(made["speculative_config"]) == keywords(DESCRIBED["NGramDecodingConfig"])
        assert made["disable_overlap_scheduler"]


class Feed:
    """A stream that gives what the test puts in; an exception is raised, None ends it."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)
        self.aborted = False
        self.waits = asyncio.Event()

    def abort(self) -> None:
        self.aborted = True
        self.waits.set()

    async def go_on(self) -> None:
        """Run on the streams' event loop, whose thread alone may set an event."""
        self.waits.set()

    async def __aiter__(self) -> AsyncIterator[Progress]:
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            if item == "wait":
                await self.waits.wait()
            else:
                yield item


def same(item: Progress) -> Progress:
    return item


END = Progress((9,), finish=FinishReason.LENGTH)


class TestStreams:
    @pytest.fixture
    def streams(self) -> Iterator[Streams[Progress]]:
        streams: Streams[Progress] = Streams("test")
        yield streams
        streams.close()

    def collect(self, streams: Streams[Progress]) -> dict[int, list[Progress]]:
        """Step until nothing runs."""
        news: dict[int, list[Progress]] = {}
        while len(streams):
            for key, progress in streams.step().items():
                news.setdefault(key, []).append(progress)
        return news

    def test_all_tokens_come_in_order_for_each_sequence(self, streams: Streams[Progress]) -> None:
        for key in range(8):
            items = [Progress((key, place), (0.5, place)) for place in range(20)]
            streams.start(key, lambda items=items: Feed(*items, END), same)
        news = self.collect(streams)

        assert len(news) == 8
        for key, parts in news.items():
            tokens = [token for part in parts for token in part.tokens]
            assert tokens == [number for place in range(20) for number in (key, place)] + [9]
            assert sum(len(part.log_probs) for part in parts) == 40
            assert [part.finish for part in parts][-1] is FinishReason.LENGTH
            assert not any(part.finish for part in parts[:-1])

    def test_without_news_a_step_ends_and_without_sequences_it_does_not_wait(
        self, streams: Streams[Progress]
    ) -> None:
        idle = math.inf
        for _ in range(5):
            start = time.monotonic()
            assert streams.step() == {}
            idle = min(idle, time.monotonic() - start)
        streams.start(1, lambda: Feed("wait", END), same)
        start = time.monotonic()

        assert streams.step() == {}
        assert time.monotonic() - start > idle, "it waited for news"
        assert len(streams) == 1

    def test_a_cancelled_sequence_is_aborted_and_its_late_news_reach_nobody(
        self, streams: Streams[Progress]
    ) -> None:
        late, other = Feed(Progress((1,)), "wait", Progress((2,)), END), Feed("wait", END)
        streams.start(1, lambda: late, same)
        streams.cancel(1)
        streams.cancel(77)
        streams.start(1, lambda: other, same)  # the same key again: the old news are not taken for its own
        assert streams.step() == {}
        streams.call(other.go_on)
        news = self.collect(streams)

        assert late.aborted
        assert news == {1: [END]}

    def test_an_exception_is_the_error_of_its_sequence_only(self, streams: Streams[Progress]) -> None:
        broken = Feed(Progress((1,)), RuntimeError("out of memory"))
        streams.start(1, lambda: broken, same)
        streams.start(2, lambda: Feed(Progress((5,)), END), same)
        news = self.collect(streams)

        assert news[1][-1].error == "RuntimeError: out of memory"
        assert news[2][-1].finish is FinishReason.LENGTH
        assert broken.aborted

    def test_a_stream_that_just_ends_is_an_error(self, streams: Streams[Progress]) -> None:
        streams.start(1, lambda: Feed(Progress((1,))), same)

        assert self.collect(streams)[1][-1].error == "the engine ended the sequence without saying why"

    def test_what_is_refused_at_the_start_is_not_followed(self, streams: Streams[Progress]) -> None:
        def refuse() -> Feed:
            raise ValueError("the prompt is too long")

        with pytest.raises(ValueError, match="too long"):
            streams.start(1, refuse, same)
        assert len(streams) == 0

    def test_closing_aborts_what_runs(self) -> None:
        streams: Streams[Progress] = Streams("test")
        feed = Feed("wait", END)
        streams.start(1, lambda: feed, same)
        streams.close()

        assert feed.aborted
        assert len(streams) == 0


def test_the_page_names_every_keyword_that_is_passed() -> None:
    page = (Path(tensorrt_llm.__file__).parents[2] / "docs" / "tensorrt_llm.md").read_text(encoding="utf-8")
    passed = {name for made in DESCRIBED.values() for name in keywords(made)}

    assert {name for name in passed if f"`{name}" not in page and f"{name}=" not in page} == set()
