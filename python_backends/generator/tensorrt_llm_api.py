"""What is used of TensorRT-LLM's LLM API, typed, and the one place that imports it.

The library publishes no type information, needs a GPU's driver to be imported, and is not installed where
this project is developed. So its classes are described here, as protocols with only the parameters that
:mod:`.tensorrt_llm` passes, and mypy holds the callers to them. Tests compare the parameters with a list
of the library's own.

Written from, and never run against, the documentation of TensorRT-LLM 1.2 to 1.4:

- https://nvidia.github.io/TensorRT-LLM/llm-api/reference.html (and its pages ``SamplingParams``,
  ``KvCacheConfig``, ``CompletionOutput``, ``RequestOutput``, ``LoRARequest``, ``TorchLlmArgs``)
- https://nvidia.github.io/TensorRT-LLM/features/lora.html, ``features/kvcache.html``,
  ``features/speculative-decoding.html``, ``features/additional-outputs.html``
- NVIDIA's own Triton model over it, ``triton_backend/all_models/llmapi`` of the repository below, which
  also builds the engine beside the event loop and then calls ``generate_async`` on it
- the schemas of its API in ``tests/unittest/api_stability`` of https://github.com/NVIDIA/TensorRT-LLM
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Logprob(Protocol):
    """``tensorrt_llm.executor.result.Logprob``."""

    logprob: float


class CompletionOutput(Protocol):
    """``tensorrt_llm.llmapi.CompletionOutput``: all of one answer so far.

    ``finish_reason`` is ``stop``, ``length``, ``timeout`` or ``cancelled``; None until the end.
    """

    @property
    def token_ids(self) -> Sequence[int] | None:
        """All tokens so far."""
        ...

    @property
    def logprobs(self) -> Sequence[Mapping[int, Logprob] | float] | None:
        """For each token, the asked ones of that place, by token."""
        ...

    @property
    def finish_reason(self) -> str | None:
        """Why it ended."""
        ...


class RequestOutput(Protocol):
    """``tensorrt_llm.llmapi.RequestOutput``: a request in flight; each item of the iteration is itself."""

    @property
    def outputs(self) -> Sequence[CompletionOutput]:
        """One for each answer asked for."""
        ...

    @property
    def finished(self) -> bool:
        """Whether no more will come."""
        ...

    def __aiter__(self) -> AsyncIterator[RequestOutput]:
        """Give itself, once for each response of the engine."""
        ...

    def abort(self) -> None:
        """Stop the request."""
        ...


class Llm(Protocol):
    """An instance of ``tensorrt_llm.LLM``."""

    def generate_async(
        self, inputs: list[int], sampling_params: object, lora_request: object | None, streaming: bool
    ) -> RequestOutput:
        """Start a request; called on an event loop, its result can be awaited there."""
        ...

    def get_stats_async(self, timeout: float) -> AsyncIterator[Mapping[str, Any]]:
        """Give a dictionary for each iteration of the engine, until none came for ``timeout`` seconds."""
        ...

    def shutdown(self) -> None:
        """End the engine's processes."""
        ...


class MakeLlm(Protocol):
    """``tensorrt_llm.LLM``."""

    def __call__(
        self,
        *,
        model: str,
        tokenizer: str,
        dtype: str,
        tensor_parallel_size: int,
        max_batch_size: int,
        max_num_tokens: int,
        max_seq_len: int,
        kv_cache_config: object,
        enable_chunked_prefill: bool,
        guided_decoding_backend: str,
        enable_iter_perf_stats: bool,
        disable_overlap_scheduler: bool,
        speculative_config: object | None,
        lora_config: object | None,
    ) -> Llm:
        """Load a folder in the Hugging Face layout."""
        ...


class MakeSamplingParams(Protocol):
    """``tensorrt_llm.SamplingParams``."""

    def __call__(
        self,
        *,
        end_id: int,
        pad_id: int,
        max_tokens: int,
        min_tokens: int | None,
        stop_token_ids: list[int] | None,
        include_stop_str_in_output: bool,
        ignore_eos: bool,
        detokenize: bool,
        temperature: float | None,
        top_k: int | None,
        top_p: float | None,
        seed: int | None,
        repetition_penalty: float | None,
        presence_penalty: float | None,
        frequency_penalty: float | None,
        logprobs: int | None,
        guided_decoding: object | None,
    ) -> object:
        """Only keywords are taken."""
        ...


class MakeGuidedDecodingParams(Protocol):
    """``tensorrt_llm.llmapi.GuidedDecodingParams``."""

    def __call__(self, *, json: str) -> object:
        """Ask for text that fits a JSON schema."""
        ...


class MakeKvCacheConfig(Protocol):
    """``tensorrt_llm.llmapi.KvCacheConfig``."""

    def __call__(self, *, enable_block_reuse: bool, max_tokens: int, dtype: str) -> object:
        """Ask for so many tokens; fewer are taken where the GPU has no room."""
        ...


class MakeNGramDecodingConfig(Protocol):
    """``tensorrt_llm.llmapi.NGramDecodingConfig``."""

    def __call__(self, *, max_draft_len: int, max_matching_ngram_size: int, is_public_pool: bool) -> object:
        """Guess tokens from those that followed the same few tokens before."""
        ...


class MakeLoraConfig(Protocol):
    """``LoraConfig``, as ``tensorrt_llm.llmapi.llm_args`` names it."""

    def __call__(
        self, *, lora_dir: list[str], max_lora_rank: int, max_loras: int, max_cpu_loras: int
    ) -> object:
        """Reserve room for adapters."""
        ...


class MakeLoraRequest(Protocol):
    """``tensorrt_llm.executor.request.LoRARequest``."""

    def __call__(self, lora_name: str, lora_int_id: int, lora_path: str) -> object:
        """Name an adapter's folder."""
        ...


@dataclass(frozen=True, slots=True)
class Library:
    """The classes of TensorRT-LLM that are used."""

    version: str
    llm: MakeLlm
    sampling_params: MakeSamplingParams
    guided_decoding_params: MakeGuidedDecodingParams
    kv_cache_config: MakeKvCacheConfig
    ngram_decoding_config: MakeNGramDecodingConfig
    lora_config: MakeLoraConfig
    lora_request: MakeLoraRequest


PLACES: Mapping[str, tuple[str, str]] = {
    "llm": ("tensorrt_llm", "LLM"),
    "sampling_params": ("tensorrt_llm", "SamplingParams"),
    "guided_decoding_params": ("tensorrt_llm.llmapi", "GuidedDecodingParams"),
    "kv_cache_config": ("tensorrt_llm.llmapi", "KvCacheConfig"),
    "ngram_decoding_config": ("tensorrt_llm.llmapi", "NGramDecodingConfig"),
    # Its own module moved from release to release; the arguments' module imports it in all of them.
    "lora_config": ("tensorrt_llm.llmapi.llm_args", "LoraConfig"),
    "lora_request": ("tensorrt_llm.executor.request", "LoRARequest"),
}
"""Where each class is found: module and name."""


def load_library() -> Library:
    """Import TensorRT-LLM.

    Raises:
        RuntimeError: It is missing, cannot be imported, or lacks a class; the message says what to do.
    """
    try:
        version = str(importlib.import_module("tensorrt_llm").__version__)
        found: dict[str, Any] = {
            field: getattr(importlib.import_module(module), name) for field, (module, name) in PLACES.items()
        }
    except Exception as error:  # its import starts MPI and CUDA, which fail in their own ways
        raise RuntimeError(
            f"engine tensorrt-llm cannot be loaded: {type(error).__name__}: {error}. It needs an NVIDIA GPU "
            "and the container nvcr.io/nvidia/tritonserver:YY.MM-trtllm-python-py3; without them, build with "
            "engine openvino-genai"
        ) from error
    return Library(version=version, **found)
