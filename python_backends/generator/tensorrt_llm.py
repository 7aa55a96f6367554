"""TensorRT-LLM's LLM API on NVIDIA GPUs, written from its documentation.

**It has never run: there was no GPU.** What it is written from is named in :mod:`.tensorrt_llm_api`, what
is mapped to what in ``docs/tensorrt_llm.md``. The engine schedules in processes of its own and answers each
request with an asynchronous stream; :mod:`.streams` turns them into steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .protocol import EngineStats, FinishReason, Progress, RefusedError, SamplingParams
from .settings import GeneratorSettings
from .streams import Streams
from .tensorrt_llm_api import Library, Llm, RequestOutput, load_library

ADAPTERS = "adapters"
"""Folder with one folder for each LoRA adapter, in the layout of Hugging Face's PEFT."""

_DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
_FINISHED = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
_NGRAM = 3  # tokens that must recur before those that followed them are guessed
_STATS_S = 1.0
_STATS_WAIT_S = 30.0


class TensorRtLlmGenerator:
    """One engine of TensorRT-LLM, over all GPUs that share the model.

    Args:
        folder: The version folder: weights, configuration and tokenizer in the Hugging Face layout, and
            LoRA adapters below :data:`ADAPTERS`.
        settings: Sizes and precisions.

    Raises:
        RuntimeError: The library is missing, or the engine cannot load the model.
        ValueError: The settings ask for what this engine does not have.
    """

    def __init__(self, folder: Path, settings: GeneratorSettings) -> None:
        """Load the model and run it once, so that the first user does not pay for that."""
        self._settings = settings
        self._adapters = find_adapters(folder)
        check_settings(settings)
        self._library = load_library()
        self._llm: Llm = self._library.llm(**llm_arguments(folder, settings, self._adapters, self._library))
        self._streams: Streams[RequestOutput] = Streams("tensorrt-llm")
        self._last: Mapping[str, Any] = {}
        self.kv_tokens = settings.kv_cache_tokens
        try:
            self._warm_up()
        except Exception:
            self.close()
            raise
        self._streams.spawn(self._watch)

    def add(self, key: int, prompt: NDArray[np.int64], params: SamplingParams) -> None:
        """Hand a sequence to the engine."""
        check_request(params, self._settings, self._adapters)
        arguments = sampling_arguments(params, self._settings.stop_token_ids)
        guide = params.json_schema
        guided = self._library.guided_decoding_params(json=guide) if guide is not None else None
        adapter = None
        if params.adapter is not None:
            place = self._adapters[params.adapter]
            number = list(self._adapters).index(params.adapter)
            adapter = self._library.lora_request(params.adapter, number, str(place))

        def begin() -> RequestOutput:
            sampling = self._library.sampling_params(**arguments, guided_decoding=guided)
            return self._llm.generate_async(
                inputs=prompt.tolist(), sampling_params=sampling, lora_request=adapter, streaming=True
            )

        try:
            self._streams.start(key, begin, progress_reader(params.log_probs))
        except Exception as error:  # its own class for requests, ValueError and others, as the version has it
            raise RefusedError(f"tensorrt-llm refuses the request: {error}") from error

    def has_room(self, prompt_tokens: int, params: SamplingParams) -> bool:
        """Its scheduler copes with a full KV cache."""
        return True

    def cancel(self, key: int) -> None:
        """Abort the request; the engine frees its blocks in its next iteration."""
        self._streams.cancel(key)

    def step(self) -> Mapping[int, Progress]:
        """Give what has come; the engine itself is never held up."""
        return self._streams.step()

    def stats(self) -> EngineStats:
        """The engine's newest statistics, at most about a second old."""
        return engine_stats(self._last, len(self._streams))

    def reset(self) -> None:
        """Abort what runs; its executor goes on after errors of single requests."""
        self._streams.cancel_all()

    def close(self) -> None:
        """Abort what runs, then end the engine's processes."""
        self._streams.close()
        self._llm.shutdown()

    def _warm_up(self) -> None:
        """Generate a few tokens, and ask how large the KV cache has become."""
        self.add(0, np.zeros(min(16, self._settings.max_length - 2), dtype=np.int64), _WARM_UP)
        error = None
        while len(self._streams):
            error = next((news.error for news in self.step().values() if news.error), None)
        if error is not None:
            raise RuntimeError(f"tensorrt-llm loaded the model but cannot generate: {error}")
        self._streams.call(self._read_stats, _STATS_WAIT_S)
        self.kv_tokens = min(self.kv_tokens, cache_tokens(self._last) or self.kv_tokens)

    async def _watch(self) -> None:
        """Keep the newest statistics."""
        while True:
            # Statistics are beta in all versions, and answers do not depend on them.
            with contextlib.suppress(Exception):
                await self._read_stats()
            await asyncio.sleep(_STATS_S)

    async def _read_stats(self) -> None:
        """Take the statistics of all iterations until there are none for a second."""
        async for iteration in self._llm.get_stats_async(timeout=_STATS_S):
            self._last = iteration


_WARM_UP = SamplingParams(max_tokens=2, ignore_eos=True)


def find_adapters(folder: Path) -> dict[str, Path]:
    """Give the LoRA adapters of a version folder by name, in the order of their numbers."""
    places = sorted((folder / ADAPTERS).glob("*/adapter_config.json"))
    return {place.parent.name: place.parent for place in places}


def check_settings(settings: GeneratorSettings) -> None:
    """Refuse what the engine has no counterpart of.

    Raises:
        ValueError: Named and explained.
    """
    if settings.kv_cache_precision != "f16":
        raise ValueError(
            f"kv_cache_precision is {settings.kv_cache_precision}, and tensorrt-llm caches in the 16 bits of "
            "the model; say f16"
        )
    if settings.precision not in _DTYPES:
        raise ValueError(
            f"precision is {settings.precision}, and tensorrt-llm takes {', '.join(_DTYPES)} here; a "
            "checkpoint that was quantized by NVIDIA's ModelOpt keeps its own precision with any of them"
        )


def check_request(params: SamplingParams, settings: GeneratorSettings, adapters: Mapping[str, Path]) -> None:
    """Refuse a request that the engine would answer with something else.

    Raises:
        RefusedError: Names the parameter.
    """
    if params.adapter is not None and params.adapter not in adapters:
        known = ", ".join(adapters) or "none; put them into the model's version folder, below adapters/"
        raise RefusedError(f"adapter is {params.adapter!r}; the model has: {known}")
    if not settings.prompt_lookup_tokens:
        return
    # Speculation knows only some of the samplers, and its documentation does not say which.
    plain = SamplingParams(max_tokens=1)
    for name in ("temperature", "min_tokens", "repetition_penalty", "presence_penalty", "frequency_penalty"):
        value, neutral = getattr(params, name), getattr(plain, name)
        if value != neutral:
            raise RefusedError(
                f"{name} is {value}; with prompt_lookup_tokens only {neutral} is offered by tensorrt-llm"
            )


def llm_arguments(
    folder: Path, settings: GeneratorSettings, adapters: Mapping[str, Path], library: Library
) -> dict[str, Any]:
    """Keywords of ``tensorrt_llm.LLM``.

    The tokenizer is loaded though only ids go in and out, as guided decoding needs it. The scheduler's
    policy is left at its default, which admits a sequence only if it can be finished without preemption.
    """
    lookup = settings.prompt_lookup_tokens
    speculative = lora = None
    if lookup:
        speculative = library.ngram_decoding_config(
            max_draft_len=lookup, max_matching_ngram_size=_NGRAM, is_public_pool=False
        )
    if adapters:
        lora = library.lora_config(
            lora_dir=[str(place) for place in adapters.values()],
            max_lora_rank=max(_rank(place) for place in adapters.values()),
            max_loras=len(adapters),
            max_cpu_loras=len(adapters),
        )
    return {
        "model": str(folder),
        "tokenizer": str(folder),
        "dtype": _DTYPES[settings.precision],
        "tensor_parallel_size": settings.tensor_parallel,
        "max_batch_size": settings.max_num_seqs,
        # Every running sequence must have room for its next token and the guesses.
        "max_num_tokens": max(settings.max_num_batched_tokens, settings.max_num_seqs * (1 + lookup)),
        "max_seq_len": settings.max_length,
        "kv_cache_config": library.kv_cache_config(
            enable_block_reuse=settings.prefix_caching, max_tokens=settings.kv_cache_tokens, dtype="auto"
        ),
        "enable_chunked_prefill": True,
        "guided_decoding_backend": "xgrammar",
        "enable_iter_perf_stats": True,
        "disable_overlap_scheduler": bool(lookup),  # guesses need the last step's tokens on the host
        "speculative_config": speculative,
        "lora_config": lora,
    }


def sampling_arguments(params: SamplingParams, stop_token_ids: tuple[int, ...]) -> dict[str, Any]:
    """Keywords of ``tensorrt_llm.SamplingParams``, all but ``guided_decoding``.

    Stop strings are not among them: the model finds them in the text itself. What is neutral is None, so
    that the engine takes its fast paths. Without ``top_p`` it would be greedy at any temperature.
    """
    stops = () if params.ignore_eos else stop_token_ids
    greedy = params.temperature == 0
    return {
        "end_id": stops[0] if stops else -1,
        "pad_id": stop_token_ids[0] if stop_token_ids else 0,
        "max_tokens": params.max_tokens,
        "min_tokens": params.min_tokens or None,
        "stop_token_ids": list(stops[1:]) or None,
        "include_stop_str_in_output": True,  # an end-of-sequence token belongs to the answer's tokens
        "ignore_eos": params.ignore_eos,
        "detokenize": False,
        "temperature": None if greedy else params.temperature,
        "top_k": 1 if greedy else params.top_k or None,
        "top_p": None if greedy else params.top_p,
        "seed": None if greedy else params.seed,
        "repetition_penalty": _unless(params.repetition_penalty, 1.0),
        "presence_penalty": _unless(params.presence_penalty, 0.0),
        "frequency_penalty": _unless(params.frequency_penalty, 0.0),
        "logprobs": 1 if params.log_probs else None,
    }


def progress_reader(log_probs: bool) -> Callable[[RequestOutput], Progress]:
    """Make the function that gives what is new in one request's output, which holds all since its start.

    Args:
        log_probs: Whether they were asked for.
    """
    seen = 0

    def read(result: RequestOutput) -> Progress:
        nonlocal seen
        (output,) = result.outputs
        every = output.token_ids or ()
        tokens, start = tuple(every[seen:]), seen
        seen = len(every)
        chances: tuple[float, ...] = ()
        if log_probs:
            entries = (output.logprobs or ())[start:seen]
            if len(entries) != len(tokens):
                return Progress(error=f"{len(entries)} log probabilities came for {len(tokens)} tokens")
            found = [_log_prob(entry, token) for entry, token in zip(entries, tokens, strict=True)]
            if None in found:
                return Progress(error=f"no log probability came for token {tokens[found.index(None)]}")
            chances = tuple(value for value in found if value is not None)
        if not result.finished:
            return Progress(tokens, chances)
        finish = _FINISHED.get(output.finish_reason or "")
        if finish is None:
            return Progress(tokens, chances, error=f"the engine gave up: {output.finish_reason}")
        return Progress(tokens, chances, finish)

    return read


def engine_stats(iteration: Mapping[str, Any], sequences: int) -> EngineStats:
    """Statistics of one iteration in the words of the protocol.

    Args:
        iteration: As ``get_stats_async`` gives it; empty before the first.
        sequences: In the engine, as counted here.
    """
    cache = iteration.get("kvCacheStats") or {}
    blocks = cache.get("maxNumBlocks") or 0
    reused = cache.get("reusedBlocks")
    return EngineStats(
        sequences=sequences,
        scheduled=int((iteration.get("inflightBatchingStats") or {}).get("numScheduledRequests", 0)),
        kv_used=cache.get("usedNumBlocks", 0) / blocks if blocks else 0.0,
        prefix_hit_tokens=None if reused is None else int(reused * cache.get("tokensPerBlock", 0)),
    )


def cache_tokens(iteration: Mapping[str, Any]) -> int | None:
    """Tokens that the KV cache holds, which may be fewer than asked for; None where it does not tell."""
    cache = iteration.get("kvCacheStats") or {}
    return int(cache.get("maxNumBlocks", 0) * cache.get("tokensPerBlock", 0)) or None


def _unless(value: float, neutral: float) -> float | None:
    """None for a value that changes nothing."""
    return None if value == neutral else value


def _log_prob(entry: Any, token: int) -> float | None:
    """One token's log probability; an entry holds the likeliest tokens too, or is just the number."""
    if isinstance(entry, Mapping):
        return float(entry[token].logprob) if token in entry else None
    return float(entry)


def _rank(adapter: Path) -> int:
    """The rank of a LoRA adapter."""
    return int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
