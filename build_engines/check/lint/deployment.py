"""Rules on optimization profiles and on what Triton is told of the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from onnx import TensorProto, ValueInfoProto

from build_engines.check.lint.graph import type_name
from build_engines.check.lint.rules import Case, Profile, rule

_TRITON_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.BFLOAT16: "TYPE_BF16",
    TensorProto.INT8: "TYPE_INT8",
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.BOOL: "TYPE_BOOL",
}


@rule("triton-type", "error", "make both the same: TensorRT keeps the graph's type, INT64 included")
def triton_type(case: Case) -> Iterator[tuple[str, str]]:
    """An INT64 input of the graph is an INT64 input of the engine."""
    declared = case.deployment.triton_inputs
    if declared is None:
        return
    for value in case.graph.inputs:
        code = value.type.tensor_type.elem_type
        told = declared.get(value.name)
        if told is None:
            yield value.name, "Triton is not told of this input"
        elif told != _TRITON_TYPES.get(code):
            yield value.name, f"the graph takes {type_name(code)}, Triton is told {told}"
    for name in declared.keys() - {value.name for value in case.graph.inputs}:
        yield name, "Triton is told of an input that the graph does not have"


@rule("profile-coverage", "error", "give every input a least, a best and a greatest shape, in this order")
def profile_coverage(case: Case) -> Iterator[tuple[str, str]]:
    """A forgotten input fails the build; shapes must rise and fit what the graph fixes."""
    inputs = {value.name: _dimensions(value) for value in case.graph.inputs}
    for number, profile in enumerate(case.deployment.profiles or ()):
        label = f"profile {number}"
        for name, dimensions in inputs.items():
            if name not in profile:
                if not all(isinstance(dimension, int) for dimension in dimensions):
                    yield label, f"it has no shapes for {name}"
                continue
            problem = _misfit(dimensions, profile[name])
            if problem:
                yield label, f"{name}: {problem}"
        for name in profile.keys() - inputs.keys():
            yield label, f"it has shapes for {name}, which is no input"


@rule("profile-dimensions", "error", "give inputs that share a dimension the same size in it")
def profile_dimensions(case: Case) -> Iterator[tuple[str, str]]:
    """Dimensions of one name are one dimension."""
    for number, profile in enumerate(case.deployment.profiles or ()):
        sizes: dict[str, dict[tuple[int, int, int], str]] = defaultdict(dict)
        for value in case.graph.inputs:
            for axis, dimension in enumerate(_dimensions(value)):
                shapes = profile.get(value.name)
                if isinstance(dimension, str) and dimension and shapes and _fits_rank(axis, shapes):
                    least, best, most = (shape[axis] for shape in shapes)
                    sizes[dimension].setdefault((least, best, most), value.name)
        for dimension, found in sizes.items():
            if len(found) > 1:
                said = ", ".join(f"{name} {size}" for size, name in found.items())
                yield f"profile {number}", f"dimension {dimension} has several sizes: {said}"


@rule("profile-max-batch", "error", "raise the profile's greatest shape, or lower max_batch_size")
def profile_max_batch(case: Case) -> Iterator[tuple[str, str]]:
    """Triton refuses a max_batch_size that no profile of the plan admits."""
    wanted, profiles = case.deployment.max_batch_size, case.deployment.profiles
    if not wanted or not profiles:
        return
    most = max(_sequences(case, profile) for profile in profiles)
    if most < wanted:
        yield "max_batch_size", f"{wanted} texts in a batch, but no profile takes more than {most}"


@rule("profile-index", "error", "list decimal indices below the number of profiles, each once")
def profile_index(case: Case) -> Iterator[tuple[str, str]]:
    """``instance_group.profile`` names profiles by index; without it only the first is used."""
    indices, profiles = case.deployment.profile_indices, case.deployment.profiles
    if indices is None or profiles is None:
        return
    for index in indices:
        if not index.isdecimal() or int(index) >= len(profiles):
            yield f"profile {index}", f"there are {len(profiles)} profiles, counted from 0"
    if len(set(indices)) < len(indices):
        yield f"profile {', '.join(indices)}", "an index is listed twice"


def _dimensions(value: ValueInfoProto) -> list[int | str]:
    """Sizes, or names of those that vary (empty where they have none)."""
    shape = value.type.tensor_type.shape
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in shape.dim]


def _misfit(dimensions: Sequence[int | str], shapes: tuple[Sequence[int], ...]) -> str | None:
    """Why three shapes do not fit an input."""
    if len(shapes) != 3 or any(len(shape) != len(dimensions) for shape in shapes):
        return f"needs three shapes of {len(dimensions)} dimensions"
    for axis, dimension in enumerate(dimensions):
        least, best, most = (shape[axis] for shape in shapes)
        if not 0 <= least <= best <= most:
            return f"{least}, {best}, {most} do not rise in dimension {axis}"
        if isinstance(dimension, int) and {least, best, most} != {dimension}:
            return f"dimension {axis} is {dimension} in the graph"
    return None


def _fits_rank(axis: int, shapes: tuple[Sequence[int], ...]) -> bool:
    """Whether three shapes have an axis."""
    return len(shapes) == 3 and all(axis < len(shape) for shape in shapes)


def _sequences(case: Case, profile: Profile) -> int:
    """Most texts that a profile takes in one run.

    Triton's TensorRT backend takes the smallest first dimension of all inputs' greatest shapes for the
    plan's limit. Of a packed run the offsets are one more than there are texts.
    """
    firsts = [
        profile[value.name][2][0] - (value.name == "cu_seqlens")
        for value in case.graph.inputs
        if len(profile.get(value.name, ())) == 3 and len(profile[value.name][2]) > 0
    ]
    return min(firsts, default=0)
