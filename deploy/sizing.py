"""What one recipe needs of a server: cores, memory, GPUs, as ``tritonforge estimate`` sees it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.deployment import Resources, ServedModel
from tritonforge.errors import TritonForgeError
from tritonforge.recipe import EngineName, Precision, Recipe, load_recipe
from tritonforge.server.repository import MANIFEST

if TYPE_CHECKING:
    from build_engines.estimate.estimate import CpuEstimate, Estimate
    from build_engines.repository.names import ModelNames

MB = 1_000_000
MIB = 1 << 20

# What CUDA's libraries add to a process in main memory: an assumption, as no GPU was at hand.
CUDA_HOST_BYTES = 2_000 * MB
# Four times what `tritonforge doctor` calls good for a stub: shared memory that runs out ends requests.
SHM_PER_STUB = 64 * MIB
# Predicted memory was within a quarter of what was observed (docs/estimate.md), and the limit kills.
HEADROOM = 1.25
_ROUND = 128 * MIB


class SizingError(TritonForgeError):
    """No number of servers carries the load that was asked for."""


@dataclass(frozen=True)
class Load:
    """What each model is to carry.

    Attributes:
        qps: Texts a second.
        p99_ms: Highest 99th percentile of the latency.
        gpu: Which GPU, for engines that need one.
        calibrate: Measure this machine's CPU; stated defaults otherwise.
        build_dir: Where builds and calibrations are kept.
    """

    qps: float = 50.0
    p99_ms: float = 100.0
    gpu: str = "l4"
    calibrate: bool = False
    build_dir: Path = Path("build")


@dataclass(frozen=True)
class Way:
    """So many servers with so many cores carry the load."""

    replicas: int
    cores: float


@dataclass(frozen=True)
class Sized:
    """A model, and the ways to run it.

    Attributes:
        model: Of the deployment.
        stubs: Processes of Python backends.
        gpus: Of one server.
        ways: To carry the load, the one with the fewest cores first.
        notes: What was assumed.
    """

    model: ServedModel
    stubs: int
    gpus: int
    ways: tuple[Way, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Built:
    """What a repository says of a recipe that was published there."""

    engine: str
    precision: str
    disk_bytes: int


def size(path: Path, load: Load, repository: Path) -> Sized:
    """Size one recipe.

    Args:
        path: The recipe.
        load: What it is to carry.
        repository: Where it was published, if it was: engine, precision and size on disk are then known.

    Raises:
        RecipeError: The recipe is not one.
        ModelFilesError: Its model is not at hand.
        SizingError: The load cannot be carried.
    """
    recipe = load_recipe(path)
    built = find_built(repository, recipe)
    if recipe.task == "generation":
        from deploy.generators import size_generator

        return size_generator(recipe, path, load, built)
    return _encoder(recipe, path, load, built)


def find_built(repository: Path, recipe: Recipe) -> Built | None:
    """Read the manifest of the published recipe; None if another model, or none, was published.

    What was published is what will be deployed, also where a build was told another precision.
    """
    try:
        manifest = json.loads((repository / recipe.name / MANIFEST).read_text(encoding="utf-8"))
        facts: dict[str, Any] = manifest["build"]
        if facts["recipe"]["model"] != recipe.model:
            return None
        folders = [repository / str(model) for model in manifest["models"]]
        version = str(manifest["version"])
        files = (file for folder in folders for file in (folder / version).rglob("*") if file.is_file())
        return Built(
            str(facts["engine"]), str(facts["precision"]), sum(file.stat().st_size for file in files)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def server_resources(models: list[ServedModel], cpu: float, gpus: int, stubs: int) -> Resources:
    """Of one server that runs some models."""
    from build_engines.estimate.constants import TRITONSERVER_BYTES

    resident = TRITONSERVER_BYTES + (CUDA_HOST_BYTES if gpus else 0)
    resident += sum(model.memory_bytes for model in models)
    shm = max(2, stubs) * SHM_PER_STUB
    return Resources(
        cpu=cpu,
        memory_bytes=math.ceil((HEADROOM * resident + shm) / _ROUND) * _ROUND,
        shm_bytes=shm,
        gpus=gpus,
    )


def _encoder(recipe: Recipe, path: Path, load: Load, built: Built | None) -> Sized:
    """An encoder."""
    from build_engines.estimate.estimate import estimate
    from build_engines.repository.names import ModelNames

    if built:
        recipe = recipe.model_copy(update={"engine": built.engine, "precision": built.precision})
    found = estimate(
        recipe,
        qps=load.qps,
        p99_ms=load.p99_ms,
        gpus=(load.gpu,),
        build_dir=load.build_dir,
        calibration=load.calibrate,
    )
    if recipe.engine == "tensorrt":
        return _on_gpu(recipe, path, load, built, found, ModelNames.of_recipe(recipe, "tensorrt"))
    able = [each for each in found.cpu if each.best]
    if not able:
        raise SizingError(
            f"no number of CPU servers meets {load.qps:g} texts/s at a p99 of {load.p99_ms:g} ms",
            where=str(path),
            mend=f"raise --p99-ms, or see `tritonforge estimate {path} --qps {load.qps:g}`",
        )
    names = ModelNames.of_recipe(recipe, able[0].engine)
    # A build on the target may choose either engine: room for the one that takes more.
    memory = max(each.memory.total - each.memory.server + each.memory.worst_activations for each in able)
    stubs = recipe.instances.engine + (0 if names.fused else recipe.instances.tokenizer)
    ways = _cpu_ways(able[0])
    model = _model(recipe, path, found.task, able[0].engine, names, memory)
    disk = built.disk_bytes if built else _weights(found, able[0].engine, able[0].precision)
    notes = found.notes + able[0].calibration.notes
    if built:
        notes = (*notes, f"published here as {built.engine} {built.precision}, so sized as that")
    elif recipe.engine == "auto":
        notes = (*notes, f"not built yet: engine {able[0].engine} assumed, memory of the larger of both")
    return finish(model, disk, stubs, 0, ways, tuple(f"{recipe.name}: {note}" for note in notes))


def _cpu_ways(each: CpuEstimate) -> tuple[Way, ...]:
    """Plans that meet the target, fewest cores first."""
    plans = sorted(
        (plan for plan in each.plans if plan.replicas), key=lambda plan: (plan.total_cores, plan.replicas)
    )
    return tuple(Way(plan.replicas, float(plan.cores)) for plan in plans)


def _on_gpu(
    recipe: Recipe, path: Path, load: Load, built: Built | None, found: Estimate, names: ModelNames
) -> Sized:
    """A TensorRT engine: one GPU a server."""
    from build_engines.estimate.constants import TOKENIZER_STUB_BYTES

    able = [plan for plan in found.gpus if plan.gpus]
    if not able:
        raise SizingError(
            f"no number of {load.gpu} meets {load.qps:g} texts/s at a p99 of {load.p99_ms:g} ms",
            where=str(path),
            mend=f"raise --p99-ms, or see `tritonforge estimate {path} --qps {load.qps:g} --gpu {load.gpu}`",
        )
    plan = min(able, key=lambda plan: plan.gpus)
    stubs = recipe.instances.tokenizer + 1  # and the model that fans rows out
    # The plan file passes through main memory while it is loaded.
    memory = int(stubs * 2 * TOKENIZER_STUB_BYTES + plan.memory.weights)
    model = _model(recipe, path, found.task, "tensorrt", names, memory)
    disk = built.disk_bytes if built else plan.memory.weights
    cores = float(max(2, math.ceil(plan.host_cores)))
    notes = (*found.notes, f"GPUs are predicted for {plan.gpu.name}, from public figures")
    named = tuple(f"{recipe.name}: {note}" for note in notes)
    return finish(model, disk, stubs, 1, (Way(plan.gpus, cores),), named)


def _model(
    recipe: Recipe, path: Path, task: str, engine: EngineName, names: ModelNames, memory: int
) -> ServedModel:
    """The recipe as a deployment sees it."""
    return ServedModel(
        name=recipe.name,
        task=task,
        engine=engine,
        gpu=engine == "tensorrt",
        parts=tuple(reversed(names.all)),
        recipe=path,
        memory_bytes=memory,
        disk_bytes=0,
        instances=recipe.instances.engine,
    )


def finish(
    model: ServedModel, disk: int, stubs: int, gpus: int, ways: tuple[Way, ...], notes: tuple[str, ...]
) -> Sized:
    """Add what a server of the model's own would be."""
    best = ways[0]
    whole = replace(
        model,
        disk_bytes=disk,
        alone=server_resources([model], best.cores, gpus, stubs),
        replicas=best.replicas,
    )
    return Sized(whole, stubs, gpus, ways, notes)


def _weights(found: Estimate, engine: EngineName, precision: Precision) -> int:
    """Bytes of the served weights."""
    from build_engines.estimate.architecture import rest_bytes

    return found.architecture.weight_bytes(found.task, precision, rest_bytes(engine))
