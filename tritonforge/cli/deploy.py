"""``tritonforge deploy``: manifests for Compose, Helm, KServe and ECS, from recipes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tritonforge.cli.extras import require
from tritonforge.console import console, err_console, print_json

if TYPE_CHECKING:
    from deploy.deployment import Deployment

app = typer.Typer(help="Manifests that run recipes' models elsewhere.", no_args_is_help=True)


class Target(StrEnum):
    """What ``--target`` takes."""

    COMPOSE = "compose"
    ECS = "ecs"
    HELM = "helm"
    KSERVE = "kserve"


@app.callback()
def _group() -> None:
    """Keep `render` a word of its own, though it is the only one."""


@app.command()
def render(
    recipe: Annotated[list[Path], typer.Argument(help="Recipe files; one server runs them all.")],
    target: Annotated[Target, typer.Option(help="Where it is to run.")],
    output: Annotated[Path, typer.Option(help="Folder to write; a new one, or one written by this command.")],
    name: Annotated[
        str | None, typer.Option(help="Of the deployment. Default: the model's, or tritonforge.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Where servers get the repository: https://, s3://, gs:// or az:// of an archive that "
            "`tritonforge pack` made, pvc://CLAIM, oci://IMAGE, or a folder. Default: by the target."
        ),
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="Of the archive; servers verify it.")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="Servers. Default: as estimated.")] = None,
    max_replicas: Annotated[
        int | None, typer.Option(min=1, help="The most that an autoscaler starts. Default: twice as many.")
    ] = None,
    qps: Annotated[float, typer.Option(help="Texts a second, of each model.")] = 50.0,
    p99_ms: Annotated[float, typer.Option(help="Highest 99th percentile of the latency, ms.")] = 100.0,
    gpu: Annotated[str, typer.Option(help="Which GPU, for models that need one.")] = "l4",
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate/--no-calibrate", help="Size by a measurement of this CPU (some seconds, once)."
        ),
    ] = False,
    engine_threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of an engine instance. Default: from the cores.")
    ] = None,
    server_image: Annotated[
        str | None,
        typer.Option(help="Image of the model server, with a tag. Default: tritonforge:VERSION-cpu."),
    ] = None,
    gateway_image: Annotated[
        str | None, typer.Option(help="Image of the front door. Default: tritonforge:VERSION-gateway.")
    ] = None,
    canary_source: Annotated[
        str | None, typer.Option(help="Repository to try on a share of the requests (KServe).")
    ] = None,
    canary_sha256: Annotated[str | None, typer.Option(help="Of its archive.")] = None,
    canary_percent: Annotated[int, typer.Option(min=0, max=100, help="The share.")] = 10,
    repository: Annotated[
        Path, typer.Option(help="Where recipes may be published: sizes of what is there are known.")
    ] = Path("model_repository"),
    build_dir: Annotated[Path, typer.Option(help="Where builds and calibrations lie.")] = Path("build"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write what TARGET needs to run the models of RECIPE.... Nothing is applied, and no cluster is asked."""
    require("sizing a deployment", "build", "onnx", "safetensors", "openvino", "onnxruntime", "tokenizers")
    from deploy.plan import Wishes, plan
    from deploy.render import render as write
    from deploy.sizing import Load

    wishes = Wishes(
        name=name,
        source=source,
        sha256=sha256,
        replicas=replicas,
        max_replicas=max_replicas,
        engine_threads=engine_threads,
        server_image=server_image,
        gateway_image=gateway_image,
        canary_source=canary_source,
        canary_sha256=canary_sha256,
        canary_percent=canary_percent,
        load=Load(qps=qps, p99_ms=p99_ms, gpu=gpu, calibrate=calibrate, build_dir=build_dir),
        repository=repository,
    )
    with err_console.status("sizing the models"):
        planned = plan(recipe, target.value, wishes)
    files = write(target.value, planned.deployment, output)
    if as_json:
        print_json(
            {
                **_figures(planned.deployment),
                "target": target.value,
                "files": [str(path) for path in files],
                "notes": list(planned.notes),
            }
        )
        return
    _say(_summary(planned.deployment))
    for path in files:
        _say(f"  {path}")
    for note in planned.notes:
        _say(f"note: {note}", "yellow")


def _figures(deployment: Deployment) -> dict[str, object]:
    """The deployment for machines."""
    size = deployment.resources
    return {
        "name": deployment.name,
        "version": deployment.version,
        "models": [
            {
                "name": model.name,
                "task": model.task,
                "engine": model.engine,
                "parts": list(model.parts),
                "recipe": str(model.recipe),
                "memory_bytes": model.memory_bytes,
                "disk_bytes": model.disk_bytes,
            }
            for model in deployment.models
        ],
        "replicas": deployment.replicas,
        "max_replicas": deployment.max_replicas,
        "cpu": size.cpu,
        "memory_bytes": size.memory_bytes,
        "shm_bytes": size.shm_bytes,
        "gpus": size.gpus,
        "engine_threads": deployment.engine_threads,
        "source": {
            "kind": deployment.source.kind,
            "value": deployment.source.value,
            "sha256": deployment.source.sha256,
        },
        "server_image": deployment.server_image,
        "gateway_image": deployment.gateway_image,
    }


def _summary(deployment: Deployment) -> str:
    """What was decided, on one line."""
    size = deployment.resources
    names = ", ".join(f"{model.name} ({model.engine})" for model in deployment.models)
    gpus = f", {size.gpus} GPU{'s' if size.gpus > 1 else ''}" if size.gpus else ""
    return (
        f"{deployment.name}: {names}; {deployment.replicas} to {deployment.max_replicas} servers of "
        f"{size.cpu:g} cores, {size.memory_bytes / (1 << 20):.0f} MiB{gpus}"
    )


def _say(text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)
