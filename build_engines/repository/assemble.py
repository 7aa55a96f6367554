"""Lays out the model folders of a recipe, complete, in a staging folder."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import python_backends
from build_engines.engines import CompiledEngine
from build_engines.repository.config import (
    LABELS_FILE,
    WARMUP_TEXT_FILE,
    ModelConfig,
    cached_config,
    engine_config,
    ensemble_config,
    fused_config,
    to_pbtxt,
    tokenizer_config,
)
from build_engines.repository.names import ModelNames
from build_engines.repository.tensorrt_config import fanout_config, plan_config
from build_engines.spec import ModelSpec
from tritonforge.recipe import Recipe
from tritonforge.server.repository import MANIFEST

BACKENDS_FOLDER = "served_backends"


def assemble(
    recipe: Recipe,
    tokenizer_path: Path,
    spec: ModelSpec,
    compiled: CompiledEngine,
    staging: Path,
    version: int,
    key: str,
    facts: Mapping[str, Any],
) -> None:
    """Write everything that Triton loads.

    Args:
        recipe: Batching, instances, policies.
        tokenizer_path: The ``tokenizer.json`` to serve.
        spec: Task, labels, lengths.
        compiled: The engine to serve.
        staging: Empty folder; gets one folder a model.
        version: Name of the version folders.
        key: Content key of this build, written into each model's manifest.
        facts: What ``tritonforge validate`` needs to know of the build, for the manifests too.

    Raises:
        OSError: If the disk is full.
    """
    names = ModelNames.of_recipe(recipe, compiled.engine)
    configs = {names.ensemble: ensemble_config(recipe, spec, names)}
    if not names.fused:
        configs[names.tokenizer] = tokenizer_config(recipe, spec)
    if names.fused:
        configs[names.engine] = fused_config(recipe, spec, compiled)
    elif names.fans_out:
        configs[names.engine] = plan_config(recipe, spec, compiled)
        configs[names.fanout] = fanout_config(recipe, spec, compiled)
    else:
        configs[names.engine] = engine_config(recipe, spec, compiled)
    if names.caches:
        configs[names.cached] = cached_config(recipe, spec, names)
    manifest = {
        "recipe": recipe.name,
        "key": key,
        "version": version,
        "models": list(names.all),
        "build": facts,
    }
    for config in configs.values():
        begin_model(staging, config, manifest)

    tokenizer = staging / names.tokenizing / str(version)
    link_or_copy(tokenizer_path, tokenizer / "tokenizer.json")
    if not names.fused:
        write_backend(tokenizer, "tokenizer")
    if recipe.warmup.enabled:
        _write_warmup(staging / names.tokenizing / "warmup" / WARMUP_TEXT_FILE, "A door opens by itself.")

    engine = staging / names.engine / str(version)
    for path in compiled.folder.iterdir():
        link_or_copy(path, engine / path.name)
    # The model that turns the engine's rows into answers, which needs the labels.
    answering = staging / (names.fanout if names.fans_out else names.engine)
    backend = "fused" if names.fused else "fanout" if names.fans_out else "encoder"
    write_backend(answering / str(version), backend)

    if spec.labels:
        labels = "".join(f"{label}\n" for label in spec.labels)
        ensembles = [staging / name for name in (names.ensemble, names.cached) if name in configs]
        for place in (answering / str(version), answering, *ensembles):
            (place / LABELS_FILE).write_text(labels, encoding="utf-8")


def begin_model(staging: Path, config: ModelConfig, manifest: Mapping[str, Any]) -> Path:
    """Write a model's configuration and manifest.

    Returns:
        Its version folder, which is still empty.
    """
    model: Path = staging / config.name
    folder = model / str(manifest["version"])
    folder.mkdir(parents=True)
    (model / "config.pbtxt").write_text(to_pbtxt(config), encoding="utf-8")
    (model / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return folder


def link_or_copy(source: Path, target: Path) -> None:
    """Hard link where the file system allows, so that weights lie on the disk once."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _write_warmup(path: Path, text: str) -> None:
    """Write one STRING element as Triton reads it: the length in bytes, uint32, then the bytes."""
    path.parent.mkdir()
    data = text.encode()
    path.write_bytes(struct.pack("<I", len(data)) + data)


def write_backend(version_folder: Path, backend: str) -> None:
    """Copy the backends' sources beside the model, with the module that Triton looks for."""
    source = Path(python_backends.__file__).parent
    shutil.copytree(
        source, version_folder / BACKENDS_FOLDER, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
    (version_folder / "model.py").write_text(
        f'"""Entry point for Triton\'s Python backend."""\n\n'
        f"from {BACKENDS_FOLDER}.{backend}.model import TritonPythonModel\n\n"
        f'__all__ = ["TritonPythonModel"]\n',
        encoding="utf-8",
    )
