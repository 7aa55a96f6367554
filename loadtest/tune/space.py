"""What is searched: keys of the recipe, and for each the values to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from python_backends.threads import engine_threads
from tritonforge.errors import RecipeError, UsageError
from tritonforge.recipe import Recipe

#: A list stands as a tuple.
Value = int | bool | str | tuple[int, ...]
Settings = Mapping[str, Value]

_DELAY = "batching.max_queue_delay_us"
_PREFERRED = "batching.preferred_batch_sizes"
_MAX_BATCH = "batching.max_batch_size"
_INSTANCES, _THREADS = "instances.engine", "threads.engine"
_STAGES, _TOKENIZERS = "stages", "instances.tokenizer"

_DELAYS_US = (0, 200, 500, 1000, 2000, 5000)
_BATCHES = (8, 16, 32, 64, 128)
_TOKEN_BUDGETS = (1024, 2048, 4096, 8192, 16384)
_SEQUENCES = (4, 8, 16, 32, 64)
_STEP_TOKENS = (64, 128, 256, 512, 1024)
_MOST_INSTANCES = 8


@dataclass(frozen=True)
class Parameter:
    """One key of the recipe and the values to try, the recipe's own among them.

    Attributes:
        key: With dots for sections.
        values: In rising order, which the sampler makes use of.
    """

    key: str
    values: tuple[Value, ...]


def search_space(
    recipe: Recipe,
    *,
    engine: str,
    cores: int,
    most_instances: int = _MOST_INSTANCES,
    client_batch: int | None = None,
    slo_ms: float | None = None,
) -> tuple[Parameter, ...]:
    """List what can matter for a recipe on a machine.

    Args:
        recipe: What is served now; its values are always among those to try.
        engine: The engine that is published.
        cores: CPUs that the server may use.
        most_instances: Engines that the memory holds.
        client_batch: Texts of the largest request that clients send: ``max_batch_size`` is not searched below
            it. None: what the recipe allows now stays allowed.
        slo_ms: No request shall wait longer for company than half of it.
    """
    if recipe.task == "generation":
        wanted: dict[str, Sequence[Value]] = {
            "generation.max_num_seqs": _SEQUENCES,
            "generation.max_num_batched_tokens": _STEP_TOKENS,
            _THREADS: _powers(cores),
        }
    else:
        largest_delay = _DELAYS_US[-1] if slo_ms is None else slo_ms * 1000 / 2
        least_batch = client_batch or recipe.batching.max_batch_size
        wanted = {
            _DELAY: [delay for delay in _DELAYS_US if delay <= largest_delay],
            _PREFERRED: [(), *((size,) for size in _BATCHES)],
            _INSTANCES: _powers(max(1, min(cores, _MOST_INSTANCES, most_instances))),
            _TOKENIZERS: _powers(min(cores, _MOST_INSTANCES)),
            "threads.tokenizer": _powers(cores),
        }
        if engine != "tensorrt":  # whose plan has batch sizes and tokens built in, and a tokenizer before it
            wanted |= {
                _STAGES: ("separate", "fused"),
                _MAX_BATCH: [size for size in _BATCHES if size >= least_batch],
                "batching.token_budget": _TOKEN_BUDGETS,
                _THREADS: _powers(cores),
            }
    return tuple(_with_own(recipe, key, values) for key, values in wanted.items())


def narrowed(
    recipe: Recipe, space: Sequence[Parameter], wanted: Sequence[tuple[str, Sequence[Value]]]
) -> tuple[Parameter, ...]:
    """Keep the keys that a user names, with the values given, if any are.

    Raises:
        UsageError: A key is not among those that are searched, or a value is not of its kind.
    """
    known = {parameter.key: parameter for parameter in space}
    chosen = []
    for key, values in wanted:
        if key not in known:
            raise UsageError(
                f"{key!r} is not searched for this recipe",
                where="--search",
                mend=f"one of {', '.join(known)}",
            )
        own = get(recipe, key)
        odd = [as_yaml(value) for value in values if type(value) is not type(own)]
        if odd:
            raise UsageError(
                f"{odd[0]} is no value of {key}", where="--search", mend=f"values are like {as_yaml(own)}"
            )
        chosen.append(_with_own(recipe, key, values) if values else known[key])
    return tuple(chosen) or tuple(space)


def own_settings(recipe: Recipe, space: Sequence[Parameter]) -> dict[str, Value]:
    """What the recipe has for each parameter."""
    return {parameter.key: get(recipe, parameter.key) for parameter in space}


def get(recipe: Recipe, key: str) -> Value:
    """The value of a dotted key."""
    found: Any = recipe
    for part in key.split("."):
        found = getattr(found, part)
    return tuple(found) if isinstance(found, list) else found


def apply(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with other settings.

    So that equal servers have equal recipes, what the build would not write is left as it is: preferred sizes
    without a delay, tokenizers where the engine tokenizes. Preferred sizes above the largest batch are left
    out.

    Raises:
        RecipeError: The settings do not go together.
    """
    data = recipe.model_dump()
    for key, value in settings.items():
        *sections, last = key.split(".")
        node = data
        for section in sections:
            node = node[section]
        node[last] = list(value) if isinstance(value, tuple) else value
    if _PREFERRED in settings or _MAX_BATCH in settings:
        batching = data["batching"]
        if not batching["max_queue_delay_us"]:
            batching["preferred_batch_sizes"] = list(recipe.batching.preferred_batch_sizes)
        batching["preferred_batch_sizes"] = [
            size for size in batching["preferred_batch_sizes"] if size <= batching["max_batch_size"]
        ]
    if data["stages"] == "fused":
        data["instances"]["tokenizer"] = recipe.instances.tokenizer
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(
            f"settings do not go together: {first['msg']}", where=".".join(map(str, first["loc"]))
        ) from error


def changes(recipe: Recipe, other: Recipe, space: Sequence[Parameter]) -> dict[str, Value]:
    """The searched keys whose values differ, with those of ``other``."""
    pairs = {parameter.key: (get(recipe, parameter.key), get(other, parameter.key)) for parameter in space}
    return {key: new for key, (old, new) in pairs.items() if old != new}


def signature(recipe: Recipe, space: Sequence[Parameter]) -> tuple[tuple[str, Value], ...]:
    """What tells servers apart: as the settings, with ``threads.engine: 0`` as the share it comes to."""
    found = own_settings(recipe, space)
    if _THREADS in found:
        instances = 1 if recipe.task == "generation" else recipe.instances.engine
        found[_THREADS] = engine_threads(recipe.threads.engine, instances)
    return tuple(sorted(found.items()))


def as_yaml(value: object) -> str:
    """A value of a setting, on one line."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _powers(most: int) -> list[int]:
    """1, 2, 4 and so on, and ``most`` itself."""
    return sorted({most, *(1 << bit for bit in range(most.bit_length()) if 1 << bit <= most)})


def _with_own(recipe: Recipe, key: str, values: Sequence[Value]) -> Parameter:
    """A parameter with the recipe's own value in its place among the others."""
    return Parameter(key, tuple(sorted({*values, get(recipe, key)}, key=_order)))


def _order(value: Value) -> tuple[int, ...]:
    if isinstance(value, str):
        return tuple(map(ord, value))
    return value if isinstance(value, tuple) else (int(value),)
