"""TensorRT plans in a repository: what each was built for, and whether it loads here.

A plan loads only in the TensorRT version that built it, on the compute capability that it was built on,
unless it was built for more. Its ``identity.json`` says what that was; the build writes it beside the plan.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tritonforge.errors import RepositoryError

IDENTITY_FILE = "identity.json"

HOST_CODE_ARGUMENT = "--backend-config=tensorrt,version-compatible=true"
"""What tritonserver needs to load a version-compatible plan, which carries code that runs in the server."""

# TensorRT in NVIDIA's images of a month, Triton's and TensorRT's own alike, as far as it is known.
_IMAGES = {"10.9": "25.03", "10.16.0": "26.03", "11.0": "26.06", "11.1.0.106": "26.07", "11.2.1": "26.08"}
_VERSION = re.compile(r"\d+(?:\.\d+){1,3}")
_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings")


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: As the driver says it.
        compute_capability: ``8.9`` and so on.
        driver: Version of the driver.
    """

    name: str
    compute_capability: str
    driver: str


@dataclass(frozen=True)
class Host:
    """What plans are loaded with.

    Attributes:
        tensorrt: Version, all four fields where they are known; None where there is no TensorRT.
        gpus: Those that are visible.
    """

    tensorrt: str | None
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True)
class PlanIdentity:
    """What a plan was built with and for.

    Attributes:
        tensorrt: Version, four fields.
        gpu: Name of the GPU that it was tuned on.
        compute_capability: Of that GPU, ``8.9``.
        driver: Version of its driver.
        precision: Of the linear layers.
        hardware_compatibility: ``none``, ``ampere_plus`` or ``same_compute_capability``.
        version_compatible: Whether newer TensorRT loads it too.
        profiles: For each optimization profile, by input, the shapes ``[min, opt, max]``.
    """

    tensorrt: str
    gpu: str
    compute_capability: str
    driver: str
    precision: str
    hardware_compatibility: str
    version_compatible: bool
    profiles: list[dict[str, list[list[int]]]]

    def write(self, folder: Path) -> None:
        """Write ``identity.json``."""
        text = json.dumps({"format": 1, **asdict(self)}, indent=2) + "\n"
        (folder / IDENTITY_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> PlanIdentity:
        """Read an ``identity.json``.

        Raises:
            RepositoryError: It is damaged, or does not say all.
        """
        try:
            data: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            values = {field.name: data[field.name] for field in fields(cls)}
            wrong = [
                key
                for key, value in values.items()
                if not isinstance(value, {"version_compatible": bool, "profiles": list}.get(key, str))
            ]
            if wrong:
                raise ValueError(f"{', '.join(wrong)} are of a wrong type")
            _numbers(values["tensorrt"]), _numbers(values["compute_capability"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RepositoryError(
                f"the identity of the plan cannot be read: {type(error).__name__}: {error}",
                where=str(path),
                mend="build the plan again",
            ) from error
        return cls(**values)


@dataclass(frozen=True)
class Misfit:
    """Why a plan does not load, or loads badly.

    Attributes:
        what: The reason.
        mend: What to do.
        fatal: Whether it keeps the plan from being loaded.
    """

    what: str
    mend: str
    fatal: bool = True


def misfits(identity: PlanIdentity, host: Host, *, allows_host_code: bool = False) -> Iterator[Misfit]:
    """Compare a plan with a machine.

    Args:
        identity: Of the plan.
        host: The machine, or container, that is to load it.
        allows_host_code: Whether the server was told to run the code in version-compatible plans.

    Yields:
        Every difference that matters.
    """
    yield from _version_misfits(identity, host.tensorrt, allows_host_code)
    if not host.gpus:
        yield Misfit(
            "there is no GPU here, and a TensorRT plan runs on nothing else",
            "serve where nvidia-smi lists one (docker run --gpus all), or build with engine: onnxruntime",
        )
    for gpu in host.gpus:
        yield from _gpu_misfits(identity, gpu)


def container_for(tensorrt: str) -> str:
    """Name the container images that hold a TensorRT version."""
    wanted = _numbers(tensorrt)
    for known, month in _IMAGES.items():
        numbers = _numbers(known)
        if wanted[: len(numbers)] == numbers:
            return f"nvcr.io/nvidia/tritonserver:{month}-py3 (and nvcr.io/nvidia/tensorrt:{month}-py3)"
    ask = "docker run --rm IMAGE printenv TRT_VERSION"
    return f"the tritonserver image whose TRT_VERSION is {tensorrt} ({ask})"


def find_plans(repository: Path, models: Iterable[str] = ()) -> dict[str, Path]:
    """Find the identity of each plan that Triton would load.

    Args:
        repository: The model repository.
        models: Names to look at; empty: all.

    Returns:
        ``identity.json`` of the newest version, by model name, for models that have one there.
    """
    if not repository.is_dir():
        return {}
    wanted = set(models)
    found = {}
    for folder in sorted(repository.iterdir()):
        if folder.name.startswith(".") or (wanted and folder.name not in wanted):
            continue
        versions = [int(path.name) for path in folder.glob("[0-9]*") if path.is_dir() and path.name.isdigit()]
        path = folder / str(max(versions, default=0)) / IDENTITY_FILE
        if path.is_file():
            found[folder.name] = path
    return found


def this_host() -> Host:
    """The TensorRT and the GPUs of this machine or container."""
    return Host(tensorrt_version(), visible_gpus())


def tensorrt_version() -> str | None:
    """Version of TensorRT here: ``TRT_VERSION`` of NVIDIA's images, else that of the Python package."""
    said = [os.environ.get("TRT_VERSION", "")]
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            said.append(version(package))
    found = (_VERSION.match(text.strip()) for text in said)
    return next((match.group() for match in found if match), None)


@cache
def visible_gpus() -> tuple[Gpu, ...]:
    """GPUs as nvidia-smi lists them, limited by ``CUDA_VISIBLE_DEVICES``; empty where there is none."""
    smi = shutil.which("nvidia-smi")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if smi is None or visible in {"", "-1"}:
        return ()
    query = [smi, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    if visible is not None:
        query.append(f"--id={visible}")
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if done.returncode:
        return ()
    rows = [line.rsplit(",", 2) for line in done.stdout.splitlines()]
    return tuple(Gpu(*(cell.strip() for cell in row)) for row in rows if len(row) == 3)


def _version_misfits(identity: PlanIdentity, here: str | None, allows_host_code: bool) -> Iterator[Misfit]:
    built = identity.tensorrt
    image = container_for(built)
    if here is None:
        yield Misfit(f"the plan was built by TensorRT {built}, and there is no TensorRT here", f"use {image}")
        return
    if _numbers(here) == _numbers(built):
        if identity.version_compatible and not allows_host_code:
            yield _HOST_CODE
        return
    newer = _numbers(here) > _numbers(built) and _numbers(built)[0] >= 10
    if not identity.version_compatible or not newer:
        only = " or newer" if identity.version_compatible else ""
        yield Misfit(
            f"the plan was built by TensorRT {built} and loads in that version{only} only; here is {here}",
            f"use {image}, or build the plan again here",
        )
    elif not allows_host_code:
        yield _HOST_CODE


_HOST_CODE = Misfit(
    "the plan is version-compatible: it carries code that the server must be allowed to run",
    f"if you trust the plan: tritonforge serve --triton-arg={HOST_CODE_ARGUMENT}",
)


def _gpu_misfits(identity: PlanIdentity, gpu: Gpu) -> Iterator[Misfit]:
    built, here = _numbers(identity.compute_capability), _numbers(gpu.compute_capability)
    compatible = here == built or (identity.hardware_compatibility == "ampere_plus" and here >= (8, 0))
    if not compatible:
        yield Misfit(
            f"the plan was built for compute capability {identity.compute_capability} ({identity.gpu}), "
            f"and {gpu.name} has {gpu.compute_capability}",
            "build it on the GPU that serves, or with tensorrt.hardware_compatibility: ampere_plus",
        )
    elif identity.hardware_compatibility == "none" and gpu.name != identity.gpu:
        yield Misfit(
            f"the plan was tuned on {identity.gpu}, and here is {gpu.name}: it may run slower than it could",
            "build it on the GPU model that serves",
            fatal=False,
        )


def _numbers(text: str) -> tuple[int, ...]:
    """``11.1.0.106`` to numbers; missing fields are left away."""
    return tuple(int(part) for part in text.split("."))
