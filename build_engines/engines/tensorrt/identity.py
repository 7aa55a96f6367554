"""What a plan was built with and for: written beside it, checked before it is published or loaded.

The comparison itself is :mod:`tritonforge.server.plans`, since ``tritonforge serve`` makes it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from build_engines.engines.tensorrt.builder import BuildOptions
from build_engines.engines.tensorrt.profiles import Profile, as_lists
from tritonforge.errors import EngineError
from tritonforge.recipe import Precision
from tritonforge.server.plans import (
    HOST_CODE_ARGUMENT,
    IDENTITY_FILE,
    Gpu,
    Host,
    PlanIdentity,
    misfits,
    this_host,
)

__all__ = ["HOST_CODE_ARGUMENT", "IDENTITY_FILE", "Gpu", "Host", "PlanIdentity", "check", "identify"]


def identify(
    trt: ModuleType, gpu: Gpu, precision: Precision, profiles: Sequence[Profile], options: BuildOptions
) -> PlanIdentity:
    """Describe a plan that ``trt`` built on ``gpu``."""
    return PlanIdentity(
        tensorrt=str(trt.__version__),
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        driver=gpu.driver,
        precision=precision,
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        profiles=as_lists(profiles),
    )


def check(folder: Path, host: Host | None = None) -> list[str]:
    """Compare the plan in a folder with this machine, or another.

    Args:
        folder: Holds ``identity.json``.
        host: What is to load it; this machine by default.

    Returns:
        What makes the plan slower than it could be.

    Raises:
        EngineError: It would not load; names the container that fits.
        RepositoryError: The identity is missing or damaged.
    """
    identity = PlanIdentity.read(folder / IDENTITY_FILE)
    found = list(misfits(identity, host or this_host(), allows_host_code=True))
    for misfit in found:
        if misfit.fatal:
            raise EngineError(misfit.what, where=str(folder), mend=misfit.mend)
    return [misfit.what for misfit in found]
