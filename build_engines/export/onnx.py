"""Exports a model to ONNX: packed where it can be, padded where not, and says which and why."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import torch
from torch import nn
from transformers import PreTrainedModel

from build_engines.check.reference import reference_hidden
from build_engines.check.samples import parity_lengths, random_sequences
from build_engines.export.adapters import adapt, can_be_packed
from build_engines.export.load import load_model
from build_engines.export.modules import PackedModule, PaddedModule
from build_engines.export.packed import ATTENTION_NAME, PackedLayout
from build_engines.model_files import ModelFiles
from build_engines.spec import ModelSpec
from python_backends.openvino_graph import MARKS
from python_backends.packing import flatten, pack, pad
from tritonforge.errors import ExportError
from tritonforge.recipe import Layout

OPSET = 20  # Gelu is one operator from here on; ONNX Runtime, OpenVINO and TensorRT read it
TOLERANCE = 1e-4  # largest difference of any token vector to the eager forward pass

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # torch colours its messages

# Beyond this length the packed check would only repeat itself, at a quadratic price.
_LONGEST_CHECKED = 512


@dataclass(frozen=True)
class Exported:
    """What the export gave.

    Attributes:
        layout: ``packed`` or ``padded``.
        note: Why the model was not packed, if it was not.
    """

    layout: Layout
    note: str | None = None


def export_onnx(files: ModelFiles, spec: ModelSpec, wanted: str, path: Path) -> Exported:
    """Export to one ONNX file in float32.

    A packed module must first agree, in torch and token by token, with the model's own eager forward
    pass. A model whose attention cannot be replaced, or that disagrees, is exported padded when
    ``wanted`` is ``auto``.

    Args:
        files: The checked model folder.
        spec: What is to be computed.
        wanted: ``packed``, ``padded`` or ``auto``.
        path: The ONNX file to write.

    Raises:
        ExportError: If the wanted layout cannot be had.
    """
    if wanted == "padded":
        _export_padded(files, spec, path)
        return Exported("padded", "padded, as the recipe asks")
    obstacle = _try_packed(files, spec, path)
    if obstacle is None:
        return Exported("packed")
    if wanted == "packed":
        raise ExportError(
            f"the model cannot be packed: {obstacle}",
            where="layout",
            mend="set `layout: auto` in the recipe: the model is then served with padding",
        )
    _export_padded(files, spec, path)
    return Exported("padded", f"padded, since the model cannot be packed: {obstacle}")


def _try_packed(files: ModelFiles, spec: ModelSpec, path: Path) -> str | None:
    """Export packed; give the reason where that is not possible."""
    reference = load_model(files, spec.task, "eager")
    if not can_be_packed(reference):
        return f"transformers' attention interface does not reach {type(reference).__name__}"
    model = load_model(files, spec.task, ATTENTION_NAME)
    adapt(model)
    module = PackedModule(model, spec).eval()
    try:
        difference = _packed_difference(module, reference, spec)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        return f"its forward pass takes no packed input ({type(error).__name__}: {error})"
    if not difference < TOLERANCE:  # also true for NaN
        return f"packed attention changes its numbers (max difference {difference:.1e})"
    example = flatten([ids[None] for ids in random_sequences(spec, [3, 5, 2])])
    inputs = pack(example, np.arange(example.count))
    axes = [{0: torch.export.Dim.DYNAMIC}] * 3
    module.marked = True
    try:
        _export(module, inputs, axes, [spec.output_name, *MARKS], path)
    except ExportError as error:
        return f"its packed form cannot be exported ({error.what})"
    return None


@torch.inference_mode()
def _packed_difference(module: PackedModule, reference: PreTrainedModel, spec: ModelSpec) -> float:
    """Largest difference of any token vector, packed against alone."""
    lengths = parity_lengths(min(spec.max_length, _LONGEST_CHECKED))
    np.random.default_rng(0).shuffle(lengths)
    sequences = random_sequences(spec, lengths)
    batch = flatten([ids[None] for ids in sequences])
    inputs = {name: torch.from_numpy(array) for name, array in pack(batch, np.arange(batch.count)).items()}
    layout = PackedLayout.of(**inputs)
    packed = module.hidden_states(inputs["input_ids"], layout).numpy()
    alone = np.concatenate([reference_hidden(reference, ids) for ids in sequences])
    return float(np.abs(packed - alone).max())


def _export_padded(files: ModelFiles, spec: ModelSpec, path: Path) -> None:
    """Export with a rectangle of tokens and its mask."""
    module = PaddedModule(load_model(files, spec.task, "eager"), spec).eval()
    example = flatten([ids[None] for ids in random_sequences(spec, [3, 5])])
    inputs = pad(example, np.arange(example.count), spec.pad_token_id)
    axes = [{0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}] * 2
    _export(module, inputs, axes, [spec.output_name], path)


def _export(
    module: nn.Module,
    inputs: dict[str, Any],
    axes: Sequence[dict[int, Any]],
    names: Sequence[str],
    path: Path,
) -> None:
    """Trace and write the graph; of its outputs, which get these names, only the first stays one."""
    try:
        with _quiet(), torch.inference_mode():
            program = torch.onnx.export(
                module,
                tuple(torch.from_numpy(array) for array in inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                dynamic_shapes=tuple(axes),
                opset_version=OPSET,
            )
            assert program is not None  # dynamo=True always gives a program
            for output, name in zip(program.model.graph.outputs, names, strict=True):
                _name(program.model, output, name)
            program.model.graph.outputs[1:] = []
            program.save(path)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, OSError) as error:
        text = _COLOUR.sub("", str(error)).strip()
        first = text.splitlines()[0] if text else type(error).__name__
        raise ExportError(f"torch.onnx.export failed: {first}", where=type(module).__name__) from error


def _name(model: onnx_ir.Model, output: onnx_ir.Value, name: str) -> None:
    """Name an output; an inner value of that name would make the file invalid."""
    for node in model.graph:
        for value in node.outputs:
            if value.name == name and value is not output:
                value.name = f"{name}_inner"
    output.name = name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its warnings about torchvision out of the user's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
