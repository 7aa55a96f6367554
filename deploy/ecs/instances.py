"""Which EC2 instance one server fits on."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.deployment import Deployment
from tritonforge.errors import UsageError

GIB = 1 << 30


@dataclass(frozen=True)
class Instance:
    """An instance type, smallest first in :data:`INSTANCES`.

    Attributes:
        name: ``g6.xlarge``.
        cpu: vCPUs.
        memory_bytes: All of it.
        gpus: NVIDIA GPUs.
    """

    name: str
    cpu: int
    memory_bytes: int
    gpus: int


# Sapphire Rapids (AMX, VNNI) where the CPU computes, NVIDIA L4 where a GPU does: `tritonforge deploy` plans
# with an L4 too. A TensorRT plan runs on the GPU that it was built on: set InstanceType to where that was.
INSTANCES = tuple(
    Instance(name, cpu, memory * GIB, gpus)
    for name, cpu, memory, gpus in (
        ("c7i.large", 2, 4, 0),
        ("m7i.large", 2, 8, 0),
        ("c7i.xlarge", 4, 8, 0),
        ("m7i.xlarge", 4, 16, 0),
        ("c7i.2xlarge", 8, 16, 0),
        ("m7i.2xlarge", 8, 32, 0),
        ("c7i.4xlarge", 16, 32, 0),
        ("m7i.4xlarge", 16, 64, 0),
        ("c7i.8xlarge", 32, 64, 0),
        ("m7i.8xlarge", 32, 128, 0),
        ("m7i.16xlarge", 64, 256, 0),
        ("g6.xlarge", 4, 16, 1),
        ("g6.2xlarge", 8, 32, 1),
        ("g6.4xlarge", 16, 64, 1),
        ("g6.8xlarge", 32, 128, 1),
        ("g6.12xlarge", 48, 192, 4),
        ("g6.48xlarge", 192, 768, 8),
    )
)


def usable_memory(instance: Instance) -> int:
    """What ECS may give to tasks: kernel, Docker and agent take some 5% and 512 MiB (an assumption)."""
    return int(instance.memory_bytes * 0.95) - (512 << 20)


def smallest_for(deployment: Deployment, cpu: float, memory_bytes: int) -> Instance:
    """The first type that takes a task.

    Raises:
        UsageError: None does.
    """
    gpus = deployment.resources.gpus
    for instance in INSTANCES:
        fits = instance.cpu >= cpu and usable_memory(instance) >= memory_bytes
        if fits and instance.gpus >= gpus and bool(instance.gpus) == bool(gpus):
            return instance
    wanted = f"{cpu:g} vCPUs, {memory_bytes / GIB:.1f} GiB and {gpus} GPUs"
    raise UsageError(
        f"no instance type that is known here has {wanted}",
        where=deployment.name,
        mend="more and smaller servers (--replicas), or models in deployments of their own",
    )
