"""Optimization profiles: which shapes a plan takes, and which it is tuned for.

What Triton's TensorRT backend does with them decides their form (``src/instance_state.cc``):

- it picks the profile by the shapes of the *request's* inputs alone, for a packed graph the number of tokens
  of the batch. So several profiles are disjoint in tokens, and each takes every number of sequences and
  every length that so many tokens can have;
- a batch that no profile takes fails as a whole. So the largest profile takes every batch that Triton may
  form, and where that would be too much, Triton may form smaller ones (:func:`served_batch_size`);
- under auto-completion the smallest first dimension among all inputs' maxima must reach
  ``max_batch_size``, ``max_seqlen`` included, whose first dimension is a length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from build_engines.spec import ModelSpec
from tritonforge.errors import EngineError
from tritonforge.recipe import Layout, Recipe

Shape = tuple[int, ...]

AUTO_TOKENS = 65_536
"""Tokens of a batch at most, unless the recipe says so: beyond it activations take gigabytes."""


class ShapeRange(NamedTuple):
    """Shapes of one input.

    Attributes:
        min: Smallest.
        opt: The one that kernels are chosen for.
        max: Largest; memory is taken for it.
    """

    min: Shape
    opt: Shape
    max: Shape


Profile = dict[str, ShapeRange]
"""Shapes of each input."""


INPUT_TYPES: dict[Layout, dict[str, str]] = {
    "packed": dict.fromkeys(("input_ids", "cu_seqlens", "max_seqlen"), "TYPE_INT32"),
    "padded": dict.fromkeys(("input_ids", "attention_mask"), "TYPE_INT32"),
}
"""Inputs of the engine in each layout, with their types in Triton."""


def largest_batch_tokens(recipe: Recipe, spec: ModelSpec) -> int:
    """Tokens of a batch at most: what the recipe says, else what ``max_batch_size`` texts can have.

    Raises:
        EngineError: If not even one text of ``max_length`` fits.
    """
    asked = recipe.tensorrt.max_tokens
    if asked == "auto":
        return max(spec.max_length, min(recipe.batching.max_batch_size * spec.max_length, AUTO_TOKENS))
    if asked < spec.max_length:
        raise EngineError(
            f"{asked} tokens in a run, and one text may have {spec.max_length}",
            where="tensorrt.max_tokens",
            mend=f"set it to {spec.max_length} or more, or lower max_length",
        )
    return asked


def served_batch_size(recipe: Recipe, spec: ModelSpec) -> int:
    """Texts in one batch of the engine at most: no batch of so many can exceed the profile."""
    return min(recipe.batching.max_batch_size, largest_batch_tokens(recipe, spec) // spec.max_length)


def make_profiles(recipe: Recipe, spec: ModelSpec, layout: Layout) -> list[Profile]:
    """Profiles of the recipe's preset, which are tuned for its length mix.

    ``throughput`` gives one profile, tuned for full batches. ``latency`` gives two: one for as many tokens
    as a single text may have, tuned for a text alone, and one for more.

    Args:
        recipe: Preset, batching, length mix.
        spec: The longest text.
        layout: Which inputs the graph takes.

    Raises:
        EngineError: If ``max_tokens`` holds not even one text.
    """
    batch = served_batch_size(recipe, spec)
    alone_first = recipe.tensorrt.preset == "latency" and batch > 1
    if layout == "padded":
        return _padded(recipe, spec, batch, alone_first)
    longest = spec.max_length
    tokens = largest_batch_tokens(recipe, spec)
    mean, long = _mix(recipe, longest)
    full = min(tokens, max(long, round(batch * mean)))
    if not alone_first:
        opt = (full, batch, long) if batch > 1 and recipe.tensorrt.preset == "throughput" else (mean, 1, mean)
        return [_packed((1, tokens), batch, longest, *opt)]
    return [
        _packed((1, longest), batch, longest, mean, 1, mean),
        _packed((longest + 1, tokens), batch, longest, max(full, longest + 1), batch, long),
    ]


def check_cuda_graphs(recipe: Recipe, layout: Layout) -> None:
    """Refuse CUDA graphs for the packed layout.

    Raises:
        EngineError: They are asked for.
    """
    if recipe.tensorrt.cuda_graphs and layout == "packed":
        raise EngineError(
            "a CUDA graph replays one set of shapes, and packed runs differ in their number of tokens; "
            "Triton would fill up with whatever lies in memory, which this graph does not mask",
            where="tensorrt.cuda_graphs",
            mend="set it to false; or set layout: padded, where texts of equal length are batched",
        )


def as_lists(profiles: Sequence[Mapping[str, ShapeRange]]) -> list[dict[str, list[list[int]]]]:
    """Profiles in values that JSON knows."""
    return [{name: [list(s) for s in shapes] for name, shapes in profile.items()} for profile in profiles]


def _packed(
    tokens: tuple[int, int], batch: int, longest: int, opt_tokens: int, opt_texts: int, opt_longest: int
) -> Profile:
    """Shapes of ``input_ids`` [tokens], ``cu_seqlens`` [texts + 1] and ``max_seqlen`` [longest]."""
    least, most = tokens
    # Beyond max_length only to satisfy auto-completion; no text is so long.
    longest_first_dimension = max(longest, batch)
    fewest = 1 if least <= longest else 2
    return {
        "input_ids": ShapeRange((least,), (opt_tokens,), (most,)),
        "cu_seqlens": ShapeRange((fewest + 1,), (max(opt_texts, fewest) + 1,), (batch + 1,)),
        "max_seqlen": ShapeRange((1,), (opt_longest,), (longest_first_dimension,)),
    }


def _padded(recipe: Recipe, spec: ModelSpec, batch: int, alone_first: bool) -> list[Profile]:
    """Shapes of ``input_ids`` and ``attention_mask``, both [texts, longest]."""
    mean, long = _mix(recipe, spec.max_length)
    opt = (batch, long) if recipe.tensorrt.preset == "throughput" else (1, mean)
    most = (batch, spec.max_length)
    if alone_first:
        ranges = [
            ShapeRange((1, 1), (1, mean), (1, spec.max_length)),
            ShapeRange((2, 1), (batch, long), most),
        ]
    else:
        ranges = [ShapeRange((1, 1), opt, most)]
    return [{"input_ids": each, "attention_mask": each} for each in ranges]


def _mix(recipe: Recipe, max_length: int) -> tuple[int, int]:
    """Mean and largest length of the recipe's mix, tokens, cut at ``max_length``."""
    lengths = [min(share.tokens, max_length) for share in recipe.length_mix]
    weights = [share.weight for share in recipe.length_mix]
    mean = sum(n * w for n, w in zip(lengths, weights, strict=True)) / sum(weights)
    return max(1, round(mean)), max(lengths)
