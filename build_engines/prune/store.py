"""Pruned weights on the disk: ``pruned.safetensors`` with what changed, ``pruning.json`` with what stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from build_engines.prune.running import Subject
from build_engines.prune.sites import find_sites, shrink
from tritonforge.errors import PruningError

WEIGHTS = "pruned.safetensors"
FACTS = "pruning.json"


def changed_weights(dense: Subject, pruned: Subject) -> dict[str, Tensor]:
    """Parameters of the encoder's layers that differ in shape or value, by name in the encoder."""
    found = {}
    for path, layer in pruned.layers.items():
        before = dict(dense.layers[path].named_parameters())
        for name, parameter in layer.named_parameters():
            if parameter.shape != before[name].shape or not torch.equal(parameter, before[name]):
                found[f"{path}.{name}"] = parameter.detach().contiguous()
    return found


def save_pruned(
    folder: Path, weights: dict[str, Tensor], kept: dict[str, list[int]], report: dict[str, Any]
) -> None:
    """Write both files.

    Args:
        folder: An existing folder.
        weights: From :func:`changed_weights`.
        kept: Units that stay, by site.
        report: For readers; not needed to load.
    """
    save_file(weights, folder / WEIGHTS)
    text = json.dumps({"kept": kept, "report": report}, indent=1)
    (folder / FACTS).write_text(text, encoding="utf-8")


def load_pruned(model: PreTrainedModel, folder: Path) -> None:
    """Make a freshly loaded dense model the pruned one, in place.

    Args:
        model: The model that was pruned, dense, with whatever attention implementation.
        folder: What :func:`~build_engines.prune.run.prune_model` wrote.

    Raises:
        PruningError: If the files are damaged, or were made from another model.
    """
    kept, weights = _read(folder)
    sites = {site.name: site for site in find_sites(model)}
    if sites.keys() != kept.keys():
        raise _foreign(folder, "it has other layers")
    for name, units in kept.items():
        site = sites[name]
        if not units or sorted(set(units)) != units or not 0 <= units[0] <= units[-1] < site.units:
            raise _foreign(folder, f"{name} has {site.units} units")
        if len(units) < site.units:
            shrink(site, units)
    parameters = dict(model.base_model.named_parameters())
    for name, tensor in weights.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            raise _foreign(folder, f"{name} does not fit")
    with torch.no_grad():
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)


def _read(folder: Path) -> tuple[dict[str, list[int]], dict[str, Tensor]]:
    """Both files."""
    try:
        kept = json.loads((folder / FACTS).read_text(encoding="utf-8"))["kept"]
        return kept, load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise PruningError(
            f"the pruned weights cannot be read: {error}",
            where=str(folder),
            mend="prune again: tritonforge build RECIPE --rerun prune",
        ) from error


def _foreign(folder: Path, why: str) -> PruningError:
    """The weights are those of another model."""
    return PruningError(
        f"the pruned weights are not this model's: {why}",
        where=str(folder),
        mend="prune again: tritonforge build RECIPE --rerun prune",
    )
