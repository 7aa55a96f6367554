"""The sections of a recipe, with every default and what each key means.

The descriptions are the reference that ``docs/recipe.md`` shows (:mod:`tritonforge.recipe.reference`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tritonforge.recipe.kinds import GpuPreset, NonNegativeInt, PositiveInt, RangeMethod, Share


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Embedding(Section):
    """How token vectors become one vector; read from sentence-transformers' `modules.json` on `auto`."""

    pooling: Literal["auto", "mean", "cls", "last"] = Field(
        default="auto", description="auto: sentence-transformers' `modules.json`, else `mean`"
    )
    normalize: bool | Literal["auto"] = Field(
        default="auto", description="vectors of unit length; auto: `modules.json`, else no"
    )


class Classification(Section):
    """How logits become scores; read from `problem_type` in the model's config on `auto`."""

    activation: Literal["auto", "softmax", "sigmoid"] = Field(
        default="auto",
        description="auto: `sigmoid` for `multi_label_classification` and for a single logit, else `softmax`",
    )
    labels: list[str] | Literal["auto"] = Field(
        default="auto", description="label names in the order of the logits; auto: `id2label`"
    )


class LengthShare(Section):
    """One share of the traffic: texts of so many tokens."""

    tokens: PositiveInt = Field(description="tokens of such a text")
    weight: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="its share, beside the others' weights"
    )


class Batching(Section):
    """Triton's dynamic batcher, and how much one run of the engine may hold."""

    max_batch_size: Annotated[int, Field(gt=0, le=4096)] = Field(
        default=64, description="texts in one request, and in one batch, at most"
    )
    max_queue_delay_us: NonNegativeInt = Field(
        default=0,
        description="how long a request may wait for company, microseconds. 0 is right for most: while the "
        "engine runs, a queue forms by itself",
    )
    preferred_batch_sizes: list[PositiveInt] = Field(
        default_factory=list, description="batch sizes that end the wait; only with a delay"
    )
    token_budget: PositiveInt = Field(
        default=4096, description="tokens in one packed run at most; a longer batch takes several runs"
    )

    @model_validator(mode="after")
    def _preferred_fit(self) -> Batching:
        """Triton refuses a preferred size above the maximum."""
        too_large = [size for size in self.preferred_batch_sizes if size > self.max_batch_size]
        if too_large:
            raise ValueError(f"preferred_batch_sizes {too_large} exceed max_batch_size {self.max_batch_size}")
        return self


class Instances(Section):
    """Model instances; each is a process of its own in Triton's Python backend."""

    tokenizer: PositiveInt = Field(default=1, description="processes of the tokenizer")
    engine: PositiveInt = Field(default=1, description="processes of the engine")


class Threads(Section):
    """Threads of each instance."""

    tokenizer: PositiveInt = Field(default=1, description="threads of one tokenizer")
    engine: NonNegativeInt = Field(
        default=0, description="threads of one engine; 0: physical cores over engine instances"
    )


class Cache(Section):
    """Answers kept for texts that come again: by Triton on the ensemble, and by the gateway."""

    enabled: bool = Field(
        default=False,
        description="Triton's response cache, in an ensemble of its own, `NAME_cached`; worth it only where "
        "texts repeat",
    )
    private: bool = Field(
        default=False, description="an answer that the gateway keeps for one caller is never given to another"
    )

    @model_validator(mode="after")
    def _private_stays_private(self) -> Cache:
        """Triton does not know who asks, so its cache would hand one caller's answer to another."""
        if self.enabled and self.private:
            raise ValueError(
                "cache.enabled shares answers between all callers, which cache.private forbids: Triton's "
                "cache knows no callers. Leave enabled at false; the gateway keeps answers for each caller"
            )
        return self


class Queue(Section):
    """Triton's queue policy and priorities, on the engine and on the tokenizer.

    Off by default, for a reason: with any bound, timeout or priority Triton stops handing batches over
    ahead of time, and a batch that waits while the engine computes may then wait up to 0.5 s more if no
    further request comes (core's ``dynamic_batch_scheduler.cc``, ``WaitForPayloadSlotAvailable``).
    """

    max_size: NonNegativeInt = Field(
        default=0,
        description="requests that wait for each part at most; more get UNAVAILABLE at once. 0: no bound",
    )
    timeout_us: NonNegativeInt = Field(
        default=0, description="how long a request may wait in a queue, microseconds; 0: for ever"
    )
    timeout_action: Literal["reject", "delay"] = Field(
        default="reject", description="what happens then: an error, or a place behind all others"
    )
    allow_timeout_override: bool = Field(default=True, description="a request may shorten its timeout")
    priority_levels: NonNegativeInt = Field(default=0, description="0: no priorities; 1 is the highest")
    default_priority: NonNegativeInt = Field(
        default=0, description="level of a request that names none; required with levels"
    )

    @model_validator(mode="after")
    def _priority_fits(self) -> Queue:
        """Triton requires a default level as soon as there are levels."""
        if self.priority_levels and not 1 <= self.default_priority <= self.priority_levels:
            raise ValueError(
                f"default_priority must be 1 to priority_levels ({self.priority_levels}), "
                f"not {self.default_priority}"
            )
        if not self.priority_levels and self.default_priority:
            raise ValueError("default_priority needs priority_levels above 0")
        return self


class Warmup(Section):
    """Runs that each instance does before the model counts as ready."""

    enabled: bool = Field(default=True, description="run each instance before it counts as ready")
    lengths: list[PositiveInt] = Field(
        default_factory=lambda: [8, 64], description="tokens of the warm-up requests, cut at max_length"
    )


class Limits(Section):
    """What one request may ask for."""

    max_text_bytes: PositiveInt = Field(
        default=1 << 20, description="longer texts are refused, since even truncation must read them whole"
    )


class Calibration(Section):
    """The text that ranges of activations are read from."""

    texts: str | None = Field(
        default=None,
        description="a file (.txt a text a line, .jsonl, .csv), a folder of such, or package:NAME/PATH",
    )
    field: str = Field(default="text", description="key or column of the text, in .jsonl and .csv")
    samples: PositiveInt = Field(default=1000, description="sequences to calibrate with")
    seed: int = Field(default=0, description="of every random choice")
    method: Literal["auto", RangeMethod] = Field(
        default="auto", description="how a range follows from a histogram; auto: the best of all on the text"
    )


class Quantization(Section):
    """Explicit Q/DQ: which linear layers become INT8, and how."""

    smooth: bool = Field(
        default=True, description="move activation outliers into the weights, alpha searched per layer"
    )
    attention: bool = Field(default=False, description="quantize the attention products as well")
    keep: list[str] = Field(
        default_factory=list, description="layers left in higher precision, as patterns of their names"
    )
    min_share: Share = Field(
        default=0.9, description="least share of the linear layers' multiply-adds that must be INT8"
    )


class Prune(Section):
    """Structured pruning: attention heads and feed-forward channels are taken out of the matrices."""

    sparsity: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="share of the heads' and channels' parameters to remove; 0: off"
    )
    heads: bool = Field(default=True, description="attention heads may be taken out")
    channels: bool = Field(default=True, description="feed-forward channels may be taken out")
    channel_multiple: PositiveInt = Field(
        default=32, description="channels left are a multiple of it, for fast products; less in narrow layers"
    )
    min_accuracy: Share = Field(default=0.99, description="least accuracy, as a share of the dense model's")
    distill_steps: NonNegativeInt = Field(
        default=0, description="steps of distillation from the dense model on the calibration text"
    )


class OpenVino(Section):
    """How OpenVINO runs an encoder."""

    float_part: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="numbers of what INT8 leaves: attention, norms, layers that are kept. bf16 is faster on "
        "CPUs that have it (AMX, AVX-512 BF16), and fp32 on others",
    )


class TensorRt(Section):
    """How TensorRT builds its engine."""

    preset: GpuPreset = Field(default="throughput", description="which shapes the profile is tuned for")
    max_tokens: PositiveInt | Literal["auto"] = Field(
        default="auto",
        description="tokens of a batch at most; auto: max_batch_size texts of max_length, 65536 at most. "
        "Fewer make the engine's batches smaller",
    )
    optimization_level: Annotated[int, Field(ge=0, le=5)] = Field(
        default=3, description="how long the builder searches"
    )
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = Field(
        default="none", description="GPUs that load the plan besides the one that built it"
    )
    version_compatible: bool = Field(
        default=False, description="newer TensorRT of the same major version loads the plan too"
    )
    weight_streaming: bool = Field(default=False, description="weights may stay in host memory")
    workspace_mib: PositiveInt = Field(default=4096, description="scratch memory of the builder")
    cuda_graphs: bool = Field(
        default=False, description="with layout padded only: packed runs never repeat their shapes"
    )


class Gate(Section):
    """What an engine must reach to be published, all against the model in float32."""

    texts: str | None = Field(
        default=None, description="held-out texts, as calibration.texts; default: what that leaves over"
    )
    labelled: str | None = Field(
        default=None,
        description=".jsonl of text and label, or of text, text_pair and score: for the task's own metric",
    )
    samples: PositiveInt = Field(default=500, description="held-out texts to judge by, at most")
    mean_cosine: Share = Field(default=0.995, description="least mean cosine to the model in float32")
    min_cosine: Share = Field(default=0.97, description="least cosine of any one text")
    top_k: PositiveInt = Field(default=10, description="nearest neighbours to compare")
    overlap: Share = Field(default=0.95, description="least share of equal neighbours among the top k")
    agreement: Share = Field(default=0.99, description="least share of equal labels (classification)")
    metric_drop: Share = Field(default=0.01, description="most that the task's metric may lose")
    min_speedup: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="least speed over the same engine's fp32, on the length mix"
    )
    perplexity_rise: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="generation: most that the perplexity of held-out text may rise, as a share; auto: 0.02 "
        "for fp32, fp16 and bf16, 0.05 for int8-weights, 0.1 for int4-weights",
    )


class Generation(Section):
    """How text is generated; the names are those of vLLM and TensorRT-LLM."""

    max_num_seqs: Annotated[int, Field(gt=0, le=1024)] = Field(
        default=32, description="sequences generated at once; more requests wait, see `queue`"
    )
    max_num_batched_tokens: PositiveInt = Field(
        default=256, description="tokens in one step; longer prompts take several (chunked prefill)"
    )
    max_tokens: PositiveInt = Field(default=256, description="for requests that name none")
    kv_cache_mib: PositiveInt | Literal["auto"] = Field(
        default="auto",
        description="memory of the KV cache; auto: max_num_seqs times 512 tokens, or max_length if more",
    )
    kv_cache_precision: Literal["auto", "f32", "f16", "u8"] = Field(
        default="auto",
        description="auto: f32 with compute f32, else f16; fewer bits take less memory, and greedy answers "
        "may then depend on their neighbours",
    )
    compute: Literal["f32", "bf16", "int8"] = Field(
        default="f32",
        description="f32: greedy answers are the same whatever runs beside them. int8 (activations, for "
        "weights of 8 or 4 bits) and bf16 are up to twice as fast in batches, and answers may vary",
    )
    prefix_caching: bool = Field(default=True, description="keep the KV blocks of common prompt beginnings")
    prompt_lookup_tokens: NonNegativeInt = Field(
        default=0, description="tokens to guess from the prompt at each step, for greedy requests; 0: off"
    )
    tensor_parallel: PositiveInt = Field(default=1, description="GPUs that share the model (TensorRT-LLM)")
