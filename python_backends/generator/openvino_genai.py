"""OpenVINO GenAI's ``ContinuousBatchingPipeline`` on a CPU: paged KV cache, prefix cache, chunked prefill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai
from numpy.typing import NDArray

from ..threads import engine_threads
from .prefixes import PrefixLedger
from .protocol import EngineStats, FinishReason, Progress, RefusedError, SamplingParams
from .settings import BLOCK, GeneratorSettings

_FINISHED = {
    genai.GenerationFinishReason.STOP: FinishReason.STOP,
    genai.GenerationFinishReason.LENGTH: FinishReason.LENGTH,
}
_NO_ROOM = "the engine dropped the sequence, as its KV cache cannot hold it; raise generation.kv_cache_mib"


class OpenVinoGenerator:
    """One pipeline with its own scheduler.

    With compute ``f32`` and a KV cache in ``f32`` greedy answers are the same whatever runs beside them.
    Fewer bits round away what differs in the last place between a row alone and one among others, now up
    and now down, and then near ties between two tokens are decided by the neighbours.

    Args:
        folder: The version folder, with ``openvino_model.xml`` and the converted tokenizer.
        settings: Sizes and precisions.

    Raises:
        RuntimeError: From OpenVINO, if the model cannot be loaded.
    """

    def __init__(self, folder: Path, settings: GeneratorSettings) -> None:
        """Load the model and run it once, so that the first user does not pay for that."""
        self._settings = settings
        blocks = settings.kv_cache_tokens // BLOCK
        self.kv_tokens = blocks * BLOCK
        self._folder = folder
        self._handles: dict[int, genai.GenerationHandle] = {}
        self._prefixes = PrefixLedger(blocks) if settings.prefix_caching else None
        self._reserved: dict[int, int] = {}
        self._unbegun: dict[int, tuple[NDArray[np.int64], SamplingParams]] = {}
        self._cancelled = False
        self.reset()

    def has_room(self, prompt_tokens: int, params: SamplingParams) -> bool:
        """With prompt lookup, whether all that run could become as long as they may.

        The engine's guesses survive when it preempts a sequence, unchecked (2 of 8 answers were wrong); so it
        must never have to. Without them it preempts and goes on correctly.
        """
        if not self._settings.prompt_lookup_tokens or not self._reserved:
            return True
        return sum(self._reserved.values()) + self._blocks(prompt_tokens, params) <= self.kv_tokens // BLOCK

    def add(self, key: int, prompt: NDArray[np.int64], params: SamplingParams) -> None:
        """Hand a sequence to the scheduler."""
        if params.adapter is not None:
            raise RefusedError(
                f"adapter is {params.adapter!r}, and openvino-genai has one set of LoRA adapters for all "
                "sequences; leave it out, or serve the model with engine tensorrt-llm"
            )
        if params.min_tokens and self._settings.prompt_lookup_tokens:
            raise RefusedError(
                f"min_tokens is {params.min_tokens}, and openvino-genai does not keep to it while it guesses "
                "from the prompt (generation.prompt_lookup_tokens); leave it out"
            )
        try:
            self._handles[key] = self._request(key, prompt, params)
        except (RuntimeError, TypeError) as error:
            raise RefusedError(f"openvino-genai refuses the request: {last_line(error)}") from error
        self._unbegun[key] = (prompt, params)
        self._reserved[key] = self._blocks(len(prompt), params)
        if self._prefixes is not None:
            self._prefixes.begin(key, prompt)

    def cancel(self, key: int) -> None:
        """Drop the handle; the scheduler frees the blocks at the start of its next step."""
        handle = self._handles.get(key)
        if handle is not None:
            handle.cancel()
            self._cancelled = True
            self._forget(key)

    def step(self) -> Mapping[int, Progress]:
        """Let the scheduler compute one step, then read the tokens."""
        if not self._pipeline.has_non_finished_requests():
            return {}
        cancelled, self._cancelled = self._cancelled, False
        self._pipeline.step()
        news = {}
        for key, handle in self._handles.items():
            # One sequence a request: beams and several answers are not offered. None: it was dropped.
            output = next(iter(handle.read().values()), None) if handle.can_read() else None
            if output is not None:
                finish = _FINISHED.get(output.finish_reason)
                news[key] = Progress(output.generated_ids, output.generated_log_probs, finish)
                self._unbegun.pop(key, None)
            elif handle.get_status() == genai.GenerationStatus.IGNORED:
                # What is cancelled frees its blocks in a step, but in that step it holds them still. If they
                # are all, the engine schedules nothing, and drops what waits as if there never were room.
                if cancelled and key in self._unbegun:
                    self._handles[key] = self._request(key, *self._unbegun[key])
                else:
                    news[key] = Progress(error=_NO_ROOM)
        for key, progress in news.items():
            if self._prefixes is not None:
                self._prefixes.grow(key, progress.tokens)
            if progress.finish is not None or progress.error is not None:
                self._forget(key)
        return news

    def stats(self) -> EngineStats:
        """Read the pipeline's own numbers."""
        metrics = self._pipeline.get_metrics()
        return EngineStats(
            sequences=len(self._handles),
            scheduled=metrics.scheduled_requests,
            kv_used=metrics.cache_usage / 100,  # it counts in percent
            prefix_hit_tokens=None if self._prefixes is None else self._prefixes.hits,
        )

    def reset(self) -> None:
        """Load the pipeline anew: after an exception its scheduler never goes on."""
        for key in list(self._handles):
            self._forget(key)
        if self._prefixes is not None:
            self._prefixes.clear()
        self._pipeline = load_pipeline(self._folder, self._settings, engine_threads(self._settings.threads))
        self._warm_up()

    def close(self) -> None:
        """Cancel what is left, and let one step free it."""
        for key in list(self._handles):
            self.cancel(key)
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()

    def _request(self, key: int, prompt: NDArray[np.int64], params: SamplingParams) -> genai.GenerationHandle:
        config = self._config(params)
        config.validate()
        return self._pipeline.add_request(key, ov.Tensor(prompt[None, :]), config)

    def _config(self, params: SamplingParams) -> genai.GenerationConfig:
        """The engine's words for the parameters."""
        config = genai.GenerationConfig()
        config.max_new_tokens = params.max_tokens
        config.min_new_tokens = params.min_tokens
        # It wants an end-of-sequence token to be named even where there is none to stop at.
        stops = self._settings.stop_token_ids
        config.ignore_eos = params.ignore_eos or not stops
        config.eos_token_id = stops[0] if stops else 0
        config.stop_token_ids = set(stops or (0,))
        config.repetition_penalty = params.repetition_penalty
        config.presence_penalty = params.presence_penalty
        config.frequency_penalty = params.frequency_penalty
        config.logprobs = int(params.log_probs)
        if params.temperature > 0:
            config.do_sample = True
            config.temperature = params.temperature
            config.top_p = params.top_p
            config.rng_seed = params.seed
            if params.top_k:
                config.top_k = params.top_k
        if params.json_schema is not None:
            config.structured_output_config = genai.StructuredOutputConfig(json_schema=params.json_schema)
        if self._settings.prompt_lookup_tokens:
            config.num_assistant_tokens = self._settings.prompt_lookup_tokens
            config.max_ngram_size = 3
        return config

    def _blocks(self, prompt_tokens: int, params: SamplingParams) -> int:
        """Blocks that a sequence may come to hold, its guesses included."""
        longest = prompt_tokens + params.max_tokens + self._settings.prompt_lookup_tokens + 1
        return -(-longest // BLOCK)

    def _forget(self, key: int) -> None:
        """Drop what is kept of a sequence that is over."""
        del self._handles[key], self._reserved[key]
        self._unbegun.pop(key, None)
        if self._prefixes is not None:
            self._prefixes.end(key)

    def _warm_up(self) -> None:
        """Generate a few tokens: kernels are compiled, memory is taken."""
        params = SamplingParams(max_tokens=2, ignore_eos=True)
        self.add(0, np.zeros(min(16, self._settings.max_length - 2), dtype=np.int64), params)
        while self._handles:
            self.step()


def load_pipeline(
    folder: Path, settings: GeneratorSettings, threads: int
) -> genai.ContinuousBatchingPipeline:
    """Load the engine as the settings say.

    Raises:
        RuntimeError: From OpenVINO, if the model cannot be loaded.
    """
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = settings.kv_cache_tokens // BLOCK
    scheduler.max_num_seqs = settings.max_num_seqs
    scheduler.max_num_batched_tokens = settings.max_num_batched_tokens
    scheduler.enable_prefix_caching = settings.prefix_caching
    scheduler.dynamic_split_fuse = True  # chunked prefill
    properties = compute_properties(settings, threads)
    if settings.prompt_lookup_tokens:
        properties["prompt_lookup"] = True
    return genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)


def compute_properties(settings: GeneratorSettings, threads: int) -> dict[str, object]:
    """How OpenVINO computes; also for a build that runs the same graph without the scheduler."""
    properties: dict[str, object] = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if settings.compute == "bf16" else "f32",
        "KV_CACHE_PRECISION": settings.kv_cache_precision,
    }
    if settings.compute != "int8":  # else activations are quantized on the way, in groups of its choice
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    return properties


def last_line(error: Exception) -> str:
    """OpenVINO's messages begin with the place in its sources; what is wrong stands on the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
