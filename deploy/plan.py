"""From recipes to a deployment: sizes them, puts them on one server, and names what runs where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.deployment import Canary, Deployment, Source
from deploy.sizing import Load, Sized, SizingError, Way, server_resources, size
from tritonforge import __version__
from tritonforge.errors import UsageError
from tritonforge.pack.source import SCHEMES

_URLS = tuple(f"{scheme}://" for scheme in SCHEMES if scheme != "file")


@dataclass(frozen=True)
class Wishes:
    """What a user may say beyond the recipes; None: worked out.

    Attributes:
        name: Of the deployment.
        source: Where servers get the repository from: a URL, ``pvc://CLAIM``, ``oci://IMAGE`` or a folder.
        sha256: Of the archive behind the URL.
        replicas: Servers at first.
        max_replicas: Servers at most.
        engine_threads: Of each engine instance.
        server_image: Image of the model server.
        gateway_image: Image of the front door.
        canary_source: A repository to try on a share of the requests.
        canary_sha256: Of its archive.
        canary_percent: The share.
        load: What each model is to carry.
        repository: The published repository on this machine.
    """

    name: str | None = None
    source: str | None = None
    sha256: str | None = None
    replicas: int | None = None
    max_replicas: int | None = None
    engine_threads: int | None = None
    server_image: str | None = None
    gateway_image: str | None = None
    canary_source: str | None = None
    canary_sha256: str | None = None
    canary_percent: int = 10
    load: Load = field(default_factory=Load)
    repository: Path = Path("model_repository")


@dataclass(frozen=True)
class Planned:
    """A deployment, and what was assumed on the way to it."""

    deployment: Deployment
    notes: tuple[str, ...]


def plan(recipes: Sequence[Path], target: str, wishes: Wishes) -> Planned:
    """Make a deployment of some recipes, which one server runs together.

    Args:
        recipes: The files.
        target: Decides where models come from, where the user does not say.
        wishes: What the user does say.

    Raises:
        UsageError: Something was asked for that cannot be.
        RecipeError: A recipe is not one.
        ModelFilesError: A recipe's model is not at hand.
        SizingError: The load cannot be carried.
    """
    if not recipes:
        raise UsageError("no recipe was given", mend="for example recipes/minilm.yaml")
    sized = [size(path, wishes.load, wishes.repository) for path in recipes]
    models = tuple(each.model for each in sized)
    name = wishes.name or (models[0].label if len(models) == 1 else "tritonforge")
    # One machine runs one server, whatever that takes.
    wanted = 1 if target == "compose" and wishes.replicas is None else wishes.replicas
    replicas, cores = together(sized, wanted)
    gpus = max(each.gpus for each in sized)
    resources = server_resources(list(models), cores, gpus, sum(each.stubs for each in sized))
    version = __version__.partition("+")[0]
    source, notes = _source(wishes, target, name)
    default_image = f"tritonforge:{version}-{'gpu' if gpus else 'cpu'}"
    deployment = Deployment(
        name=name,
        models=models,
        resources=resources,
        replicas=replicas,
        max_replicas=wishes.max_replicas or max(2 * replicas, 2),
        engine_threads=wishes.engine_threads or _threads(sized, replicas),
        source=source,
        server_image=wishes.server_image or default_image,
        gateway_image=wishes.gateway_image or f"tritonforge:{version}-gateway",
        version=version,
        canary=_canary(wishes),
    )
    if wishes.server_image is None:
        notes.append(f"image {default_image} is yours to build and push (docs/docker.md); or --server-image")
    if replicas == 1 and target != "compose":
        notes.append(
            "1 replica carries the load, and none is left while its node is drained; or --replicas 2"
        )
    return Planned(
        deployment, tuple(dict.fromkeys([*notes, *(note for each in sized for note in each.notes)]))
    )


def together(sized: Sequence[Sized], wanted: int | None) -> tuple[int, float]:
    """Replicas and cores of servers that run all models.

    Each model gets, on each server, the fewest cores with which so many servers carry its load.

    Raises:
        SizingError: So few servers cannot.
    """
    replicas = wanted or max(each.ways[0].replicas for each in sized)
    return replicas, sum(_way(each, replicas).cores for each in sized)


def _way(each: Sized, replicas: int) -> Way:
    """The fewest cores for so many servers."""
    fitting = [way for way in each.ways if way.replicas <= replicas]
    if not fitting:
        least = min(way.replicas for way in each.ways)
        raise SizingError(
            f"{each.model.name} needs {least} servers at least for this load",
            where="--replicas",
            mend=f"--replicas {least}, or a lower --qps",
        )
    return min(fitting, key=lambda way: way.cores)


def _threads(sized: Sequence[Sized], replicas: int) -> int:
    """As many as the cores that the largest engine was given."""
    return max(1, *(int(_way(each, replicas).cores) // each.model.instances for each in sized))


def parse_source(text: str, sha256: str | None = None) -> Source:
    """Read ``--source``."""
    if text.startswith("http://") and sha256 is None:
        raise UsageError(
            "models would come unencrypted, and from whoever answers",
            where=f"--source {text}",
            mend="give --sha256, or use https://, s3://, gs:// or az://",
        )
    if text.startswith(_URLS):
        return Source("url", text, sha256)
    if text.startswith("pvc://"):
        return Source("pvc", text.removeprefix("pvc://").strip("/"), sha256)
    if text.startswith("oci://"):
        return Source("oci", text.removeprefix("oci://"), sha256)
    if "://" in text:
        raise UsageError(
            f"is of no kind that is known: {text}",
            where="--source",
            mend="use https://, s3://, gs://, az://, pvc://CLAIM, oci://IMAGE, or a folder",
        )
    return Source("local", text, sha256)


def _source(wishes: Wishes, target: str, name: str) -> tuple[Source, list[str]]:
    """The user's, or what the target can mount."""
    if wishes.source:
        source = parse_source(wishes.source, wishes.sha256)
        if source.kind == "url" and source.sha256 is None:
            return source, ["the archive is not verified; give the --sha256 that `tritonforge pack` printed"]
        return source, []
    if wishes.sha256:
        raise UsageError("needs an archive", where="--sha256", mend="give --source s3://... or https://...")
    if target in ("helm", "kserve"):
        claim = f"{name}-models"
        return Source("pvc", claim), [
            f"no --source: the repository is expected in the claim {claim}, which is yours to fill"
        ]
    return Source("local", str(wishes.repository)), []


def _canary(wishes: Wishes) -> Canary | None:
    if wishes.canary_source is None:
        return None
    return Canary(parse_source(wishes.canary_source, wishes.canary_sha256), wishes.canary_percent)
