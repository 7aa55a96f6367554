"""Settings of the backends, read from the ``parameters`` of a model's ``config.pbtxt``.

Triton hands the whole configuration to ``initialize`` as JSON, every parameter as
``{"string_value": "..."}``. They are checked here once, so that a wrong value stops the load with
the name of the key instead of a failure at the first request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PRECISIONS = ("fp32", "bf16", "int8", "int8-dynamic", "int8-weights", "int4-weights")


class SettingsError(ValueError):
    """A parameter of ``config.pbtxt`` is missing or holds a value that is not allowed."""

    def __init__(self, model: str, key: str, problem: str) -> None:
        """Name the model and the key, then say what is wrong with the value."""
        super().__init__(f"{model}: parameters[{key!r}] in config.pbtxt {problem}")


class Parameters:
    """Typed access to the string parameters of one model configuration."""

    def __init__(self, model_config: str | Mapping[str, Any]) -> None:
        """Take a model configuration, JSON text or decoded."""
        self.config: Mapping[str, Any] = (
            json.loads(model_config) if isinstance(model_config, str) else model_config
        )
        self.model = str(self.config.get("name", "model"))
        self._values = {
            key: str(value.get("string_value", ""))
            for key, value in self.config.get("parameters", {}).items()
        }

    def text(self, key: str, default: str | None = None) -> str:
        """Give a text that is not empty."""
        value = self._values.get(key, "").strip() or default
        if value is None:
            raise SettingsError(self.model, key, "is missing; rebuild the repository, or add it")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        """Give one of a few words."""
        value = self.text(key, default)
        if value not in allowed:
            raise SettingsError(self.model, key, f"is {value!r}; allowed: {', '.join(allowed)}")
        return value

    def integer(self, key: str, *, minimum: int, default: int | None = None) -> int:
        """Give a whole number of at least ``minimum``."""
        value = self.text(key, None if default is None else str(default))
        try:
            number = int(value)
        except ValueError:
            raise SettingsError(self.model, key, f"is {value!r}; a whole number is needed") from None
        if number < minimum:
            raise SettingsError(self.model, key, f"is {number}; it must be at least {minimum}")
        return number

    def flag(self, key: str, default: bool) -> bool:
        """Give what ``true`` or ``false`` says."""
        return self.choice(key, ("true", "false"), str(default).lower()) == "true"

    def optional_integer(self, key: str, *, minimum: int) -> int | None:
        """Give a whole number, None where there is none."""
        return self.integer(key, minimum=minimum) if self._values.get(key, "").strip() else None

    def instances(self) -> int:
        """Count the instances that ``instance_group`` asks for, at least 1."""
        groups = self.config.get("instance_group", [])
        return max(1, sum(int(group.get("count", 1)) for group in groups))


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """Parameters of a tokenizer model.

    Attributes:
        max_length: Tokens a text is cut to, special tokens included.
        max_text_bytes: Longest text accepted, in UTF-8 bytes.
        threads: Threads of one batch encoding; 0 chooses by the cores there are.
    """

    max_length: int
    max_text_bytes: int
    threads: int

    @classmethod
    def parse(cls, model_config: str | Mapping[str, Any]) -> TokenizerSettings:
        """Read the settings from a model configuration, JSON text or decoded.

        Raises:
            SettingsError: A parameter is missing or not allowed.
        """
        parameters = Parameters(model_config)
        return cls(
            max_length=parameters.integer("max_length", minimum=1),
            max_text_bytes=parameters.integer("max_text_bytes", minimum=1, default=1 << 20),
            # Where one model does both, `threads` are the engine's.
            threads=parameters.integer(
                "tokenizer_threads", minimum=0, default=parameters.integer("threads", minimum=0, default=0)
            ),
        )


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """Parameters of an engine model.

    Attributes:
        engine: ``onnxruntime`` or ``openvino``.
        precision: Of the linear layers, one of :data:`PRECISIONS`.
        model_file: Name of the model file in the version folder.
        layout: ``packed`` (one token axis) or ``padded`` (rectangles).
        task: ``embedding`` or ``classification``.
        threads: Threads of one instance; 0 shares the physical cores among the instances.
        token_budget: Tokens in one run at most; with layout ``padded``, filler included.
        pad_token_id: Token that fills a rectangle; used with layout ``padded`` only.
        instances: Instances of the model in this server, from ``instance_group``.
        vocab_size: Ids at or above it are refused; None leaves that to the engine.
        max_length: Longer sequences are refused; None leaves that to the engine.
        float_part: Numbers of what is not quantized, ``fp32`` or ``bf16`` (OpenVINO).
    """

    engine: str
    precision: str
    model_file: str
    layout: str
    task: str
    threads: int
    token_budget: int
    pad_token_id: int
    instances: int = 1
    vocab_size: int | None = None
    max_length: int | None = None
    float_part: str = "fp32"

    @property
    def output(self) -> str:
        """Name of the graph's one output: ``embedding`` or ``scores``."""
        return "embedding" if self.task == "embedding" else "scores"

    @classmethod
    def parse(cls, model_config: str | Mapping[str, Any]) -> EncoderSettings:
        """Read the settings from a model configuration, JSON text or decoded.

        Raises:
            SettingsError: A parameter is missing or not allowed.
        """
        parameters = Parameters(model_config)
        return cls(
            engine=parameters.choice("engine", ("onnxruntime", "openvino")),
            precision=parameters.choice("precision", PRECISIONS, "fp32"),
            model_file=parameters.text("model_file"),
            layout=parameters.choice("layout", ("packed", "padded"), "packed"),
            task=parameters.choice("task", ("embedding", "classification")),
            threads=parameters.integer("threads", minimum=0, default=0),
            token_budget=parameters.integer("token_budget", minimum=1, default=16384),
            pad_token_id=parameters.integer("pad_token_id", minimum=0, default=0),
            instances=parameters.instances(),
            vocab_size=parameters.optional_integer("vocab_size", minimum=1),
            max_length=parameters.optional_integer("max_length", minimum=1),
            float_part=parameters.choice("float_part", ("fp32", "bf16"), "fp32"),
        )


@dataclass(frozen=True, slots=True)
class FanoutSettings:
    """Parameters of a fan-out model.

    Attributes:
        engine_model: The model that takes one row a request.
        layout: What that model takes: ``packed`` ids alone, ``padded`` an attention mask with them.
        task: ``embedding`` or ``classification``.
        width: Columns of the engine's output.
        concurrency: Rows of one instance under way at most.
        vocab_size: Ids at or above it are refused: on a GPU they would read foreign memory.
        max_length: Longer sequences are refused: one would fail the whole batch that it is put into.
    """

    engine_model: str
    layout: str
    task: str
    width: int
    concurrency: int
    vocab_size: int
    max_length: int

    @property
    def output(self) -> str:
        """Name of the engine's one output: ``embedding`` or ``scores``."""
        return "embedding" if self.task == "embedding" else "scores"

    @classmethod
    def parse(cls, model_config: str | Mapping[str, Any]) -> FanoutSettings:
        """Read the settings from a model configuration, JSON text or decoded.

        Raises:
            SettingsError: A parameter is missing or not allowed.
        """
        parameters = Parameters(model_config)
        return cls(
            engine_model=parameters.text("engine_model"),
            layout=parameters.choice("layout", ("packed", "padded"), "packed"),
            task=parameters.choice("task", ("embedding", "classification")),
            width=parameters.integer("width", minimum=1),
            concurrency=parameters.integer("concurrency", minimum=1, default=64),
            vocab_size=parameters.integer("vocab_size", minimum=1),
            max_length=parameters.integer("max_length", minimum=1),
        )
