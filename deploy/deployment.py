"""What is deployed: plain values, the same for each target; :mod:`deploy.plan` makes them from recipes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tritonforge.errors import UsageError
from tritonforge.pack.manifest import check_digest

SourceKind = Literal["url", "pvc", "oci", "local"]

# Triton's own defaults, which the images expose as well.
HTTP_PORT = 8000
GRPC_PORT = 8001
METRICS_PORT = 8002
# Seconds that a stop waits for requests in flight (`tritonforge serve --exit-timeout`).
DRAIN_S = 30
USER_ID = 65532

# Short enough for what targets append: Kubernetes and DNS allow 63 characters in all.
_LABEL = re.compile(r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$")
# Host and port, path, tag, digest, as Docker's reference grammar has them.
_PATH = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"^(?:[a-z0-9]+(?:[.-][a-z0-9]+)*(?::\d+)?/)?{_PATH}(?:/{_PATH})*"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@sha256:(?P<digest>[0-9a-f]{64}))?$"
)


@dataclass(frozen=True)
class Resources:
    """Of one server replica.

    Attributes:
        cpu: Cores.
        memory_bytes: Limit of its memory, shared memory included where the platform counts it there.
        shm_bytes: Of ``/dev/shm``, through which tensors go between tritonserver and its stubs.
        gpus: NVIDIA GPUs.
    """

    cpu: float
    memory_bytes: int
    shm_bytes: int
    gpus: int


@dataclass(frozen=True)
class ServedModel:
    """One recipe.

    Attributes:
        name: The model that clients call.
        task: embedding, classification or generation.
        engine: onnxruntime, openvino, openvino-genai, tensorrt or tensorrt-llm.
        gpu: Whether the engine needs one.
        parts: Every model of the repository that it takes, the front one first.
        recipe: The file.
        memory_bytes: Resident, of its stubs; estimated.
        disk_bytes: Of its files in the repository; of the last build, else estimated.
        alone: What a server that runs this model only needs; None where nobody worked it out.
        replicas: Such servers, for the load that was asked for.
        instances: Engine processes of one server, which share its cores.
    """

    name: str
    task: str
    engine: str
    gpu: bool
    parts: tuple[str, ...]
    recipe: Path
    memory_bytes: int
    disk_bytes: int
    alone: Resources | None = None
    replicas: int = 1
    instances: int = 1

    @property
    def label(self) -> str:
        """The name as DNS and Kubernetes take it: no underscores, at most 40 characters."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:40].rstrip("-")


@dataclass(frozen=True)
class Source:
    """Where a server gets the model repository from.

    Attributes:
        kind: ``url`` is fetched by ``tritonforge fetch``, ``pvc`` a claim, ``oci`` an image that holds
            the repository in ``/models``, ``local`` a folder of the host.
        value: ``s3://...``, ``https://...``, the claim's name, the image, or the folder.
        sha256: Of the archive, which ``tritonforge fetch`` verifies.
    """

    kind: SourceKind
    value: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no target could use.

        Raises:
            UsageError: With what is allowed.
        """
        if self.sha256 is not None:
            check_digest(self.sha256)
        if self.sha256 is not None and self.kind != "url":
            raise UsageError(
                f"verifies an archive that is fetched, and {self.value!r} is not one",
                where="--sha256",
                mend="leave --sha256 out, or give --source https://... or s3://...",
            )
        if self.kind == "oci":
            check_image(self.value, "--source")


@dataclass(frozen=True)
class Canary:
    """A repository that is tried on a share of the requests.

    Attributes:
        source: Of the new repository.
        percent: Of the requests.
    """

    source: Source
    percent: int = 10

    def __post_init__(self) -> None:
        """Refuse what is no share.

        Raises:
            UsageError: With what is allowed.
        """
        if not 0 <= self.percent <= 100:
            raise UsageError(f"must be 0 to 100, not {self.percent}", where="--canary-percent")


@dataclass(frozen=True)
class Deployment:
    """A group of models that one server runs, and how many servers.

    Attributes:
        name: Of all that a target creates; a DNS label.
        models: At least one.
        resources: Of one server.
        replicas: Servers at first, and the least that an autoscaler leaves.
        max_replicas: The most that it starts.
        engine_threads: Of each engine instance.
        source: Of the model repository.
        server_image: Runs ``tritonforge serve``; with a tag or digest.
        gateway_image: Runs ``tritonforge gateway``; with a tag or digest.
        version: tritonforge's.
        canary: Another repository to send a share of the requests to, where the target can.
    """

    name: str
    models: tuple[ServedModel, ...]
    resources: Resources
    replicas: int
    max_replicas: int
    engine_threads: int
    source: Source
    server_image: str
    gateway_image: str
    version: str
    canary: Canary | None = None

    def __post_init__(self) -> None:
        """Refuse what no platform would take.

        Raises:
            UsageError: With what is allowed.
        """
        if not _LABEL.match(self.name):
            raise UsageError(
                f"is no DNS label of at most 40 characters: {self.name!r}",
                where="--name",
                mend="use lower-case letters, digits and dashes, a letter first",
            )
        if not self.models:
            raise UsageError("there is no model to deploy", mend="give at least one recipe")
        names = [part for model in self.models for part in model.parts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(
                f"several recipes give the model {', '.join(twice)}",
                mend="one server runs a name once: change `name` in one of the recipes",
            )
        labels = [model.label for model in self.models]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise UsageError(
                f"two models would be called {', '.join(twice)} in a cluster",
                mend="change `name` in one of the recipes",
            )
        if not 1 <= self.replicas <= self.max_replicas:
            raise UsageError(
                f"must be at least 1 and at most --max-replicas ({self.max_replicas}), not {self.replicas}",
                where="--replicas",
            )
        check_image(self.server_image, "--server-image")
        check_image(self.gateway_image, "--gateway-image")

    @property
    def gpu(self) -> bool:
        """Whether a server needs a GPU."""
        return self.resources.gpus > 0

    @property
    def generates(self) -> bool:
        """Whether a model streams text, so that requests last long."""
        return any(model.task == "generation" for model in self.models)

    @property
    def parts(self) -> tuple[str, ...]:
        """Every model of the repository that is served."""
        return tuple(part for model in self.models for part in model.parts)

    @property
    def labels(self) -> dict[str, str]:
        """Kubernetes' recommended labels, for every object of the deployment."""
        return {
            "app.kubernetes.io/name": "tritonforge",
            "app.kubernetes.io/instance": self.name,
            # A label's value may not hold the `+` of a local version.
            "app.kubernetes.io/version": self.version.replace("+", "_"),
            "app.kubernetes.io/part-of": "tritonforge",
            "app.kubernetes.io/managed-by": "tritonforge",
        }


def check_image(image: str, where: str) -> None:
    """Refuse an image that may be another one tomorrow.

    Raises:
        UsageError: It is no image reference, names no version, or the tag ``latest``.
    """
    found = _IMAGE.match(image)
    if not found:
        raise UsageError(
            f"is no image: {image!r}", where=where, mend="for example registry.example.com/tritonforge:1.2.3"
        )
    if found["digest"] is None and found["tag"] in (None, "latest"):
        raise UsageError(
            f"names no version, so it may be another image tomorrow: {image!r}",
            where=where,
            mend="add a tag other than latest, or @sha256:...",
        )


def mebibytes(size: int) -> int:
    """Bytes in whole MiB, rounded up."""
    return -(-size // (1 << 20))


def quantity(size: int) -> str:
    """Bytes as Kubernetes writes them."""
    return f"{mebibytes(size)}Mi"


def cpu_quantity(cores: float) -> str:
    """Cores as Kubernetes writes them: ``2``, or ``1500m``."""
    return str(int(cores)) if float(cores).is_integer() else f"{round(cores * 1000)}m"
