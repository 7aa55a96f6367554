"""``tritonforge estimate``: memory, cores, replicas and GPUs for a load, without running the service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from tritonforge.cli.extras import require
from tritonforge.console import console, err_console, print_json
from tritonforge.errors import UsageError
from tritonforge.recipe import load_recipe

if TYPE_CHECKING:
    from build_engines.estimate.estimate import CpuEstimate, Estimate


def estimate(
    recipe: Annotated[Path, typer.Argument(help="Recipe file, for example recipes/minilm.yaml.")],
    qps: Annotated[float, typer.Option(help="Texts a second.")],
    p99_ms: Annotated[float, typer.Option(help="Highest 99th percentile of the latency, ms.")] = 100.0,
    gpu: Annotated[
        list[str] | None,
        typer.Option(help="h100, a100, l4, t4, ...; may be repeated. Default: some common ones."),
    ] = None,
    utilisation: Annotated[
        float, typer.Option(help="Highest share of the capacity to plan with, up to 0.95.")
    ] = 0.7,
    build_dir: Annotated[
        Path, typer.Option(help="Where builds lie; calibrations are kept there too.")
    ] = Path("build"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Overrides any recipe key.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Measure this CPU for some seconds, once.")
    ] = True,
    again: Annotated[bool, typer.Option("--again", help="Measure even if it was done before.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate what RECIPE needs for a load: memory, CPU replicas, GPUs. Nothing is served."""
    loaded = load_recipe(recipe, set_ or [])
    if loaded.task == "generation":
        raise UsageError(
            "estimate knows encoders only, and this recipe generates text",
            where=str(recipe),
            mend=f"python -m loadtest.bench_generation {recipe}",
        )
    require("estimating", "build", "onnx", "safetensors", "openvino", "onnxruntime", "tokenizers")
    from build_engines.estimate.estimate import estimate as work_out

    with err_console.status("measuring one layer on this CPU" if calibrate else "working it out"):
        found = work_out(
            loaded,
            qps=qps,
            p99_ms=p99_ms,
            gpus=gpu or (),
            utilisation=utilisation,
            build_dir=build_dir,
            calibration=calibrate,
            again=again,
        )
    if json_:
        print_json(found.as_dict())
    else:
        _print(found)


def _print(found: Estimate) -> None:
    """The answer first, then what it follows from."""
    target = found.target
    say(
        f"{found.name}: {target.qps:g} texts/s of {found.workload.mean_tokens:.0f} tokens, p99 "
        f"{target.p99_s * 1e3:g} ms, at most {target.utilisation:.0%} of the capacity"
    )
    for line in answers(found):
        say(f"  {line}", "bold")
    console.print()
    _print_model(found)
    for each in found.cpu:
        _print_cpu(each)
    _print_gpus(found)
    for note in found.notes:
        say(f"note: {note}", "yellow")


def answers(found: Estimate) -> list[str]:
    """One line for the CPU and one for each GPU and precision."""
    lines = []
    for each in found.cpu[:1]:
        plan = each.best
        lines.append(
            f"{plan.replicas} x {plan.cores} CPU cores ({each.engine} {each.precision}), "
            f"{each.memory.total * plan.replicas / 1e9:.1f} GB in all"
            if plan
            else f"no number of CPU servers ({each.engine} {each.precision}) meets the p99"
        )
    for gpu in found.gpus:
        name = f"{gpu.gpu.name} ({gpu.precision})"
        lines.append(f"{gpu.gpus} x {name}" if gpu.gpus else f"{name}: cannot meet it")
    return lines


def _print_model(found: Estimate) -> None:
    """Parameters, weights, activations, FLOPs."""
    model, parts = found.architecture, found.architecture.parameters
    table = Table(title="model", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row(
        "parameters",
        f"{model.total / 1e6:.2f} M: embedding {parts['embedding'] / 1e6:.2f}, encoder "
        f"{parts['encoder'] / 1e6:.2f}, head {parts['head'] / 1e6:.2f}",
    )
    for kind, rest in (("onnxruntime", "float32"), ("tensorrt", "FP16")):
        sizes = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in found.weights[kind].items())
        table.add_row(f"weights, MB, rest in {rest}", sizes)
    for name, peak in (
        ("activations, float32", found.activations),
        ("activations, FP16, fused", found.gpu_activations),
    ):
        table.add_row(
            name,
            f"{peak.usual_bytes / 1e6:.0f} MB at full batches of the mix, {peak.largest_bytes / 1e6:.0f} MB "
            f"at the token budget of longest texts ({peak.source})",
        )
    table.add_row("linear layers", f"{model.flops_per_token() / 1e6:.1f} MFLOP a token")
    for length, flops in found.flops.items():
        table.add_row(
            f"a text of {length} tokens",
            f"{sum(flops.values()) / 1e9:.2f} GFLOP, {flops['attention'] / sum(flops.values()):.0%} of it "
            "attention's products",
        )
    console.print(table)


def _print_cpu(each: CpuEstimate) -> None:
    """Memory of one server and the plans by cores."""
    memory = each.memory
    table = Table(title=f"CPU, {each.engine} {each.precision}", title_justify="left")
    headers = ("cores", "replicas", "texts/s each", "capacity", "lone p99 ms", "p99 ms", "batch", "bound")
    for header in headers:
        table.add_column(header, justify="left" if header == "bound" else "right")
    for plan in each.plans:
        table.add_row(
            str(plan.cores),
            str(plan.replicas or "-"),
            f"{plan.rate:.0f}",
            f"{plan.capacity:.0f}",
            f"{plan.idle_p99_s * 1e3:.1f}",
            "-" if plan.p99_s is None else f"{plan.p99_s * 1e3:.1f}",
            "-" if plan.mean_batch is None else f"{plan.mean_batch:.1f}",
            plan.bound,
            style="bold" if plan == each.best else None,
        )
    console.print(table)
    parts = {
        "tritonserver": memory.server,
        "tokenizer": memory.tokenizer,
        "engine": memory.engine_base,
        "weights": memory.weights,
        "activations": memory.activations,
        "kernel cache": memory.kernel_cache,
        "response cache": memory.response_cache,
    }
    listed = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in parts.items() if size)
    say(f"  memory of a server: {memory.total / 1e6:.0f} MB after some thousand requests: {listed}")
    here = each.calibration
    rates = ", ".join(f"{rate:.0f} with {count}" for count, rate in each.local_rates.items())
    say(f"  here ({here.cpu}, {here.threads} engine threads, with the client): texts/s {rates} in flight")
    say(f"  calibration: {here.measured}")
    for note in here.notes:
        say(f"  note: {note}", "yellow")
    console.print()


def _print_gpus(found: Estimate) -> None:
    """One row a GPU and precision."""
    table = Table(title="GPUs (public figures and assumptions, not measured)", title_justify="left")
    for header in ("GPU", "precision", "GPUs", "texts/s each", "capacity", "p99 ms", "GB", "host cores"):
        table.add_column(header, justify="left" if header in {"GPU", "precision"} else "right")
    table.add_column("bound")
    table.add_column("run bound by")
    for plan in found.gpus:
        low, high = plan.gpus_range
        count = str(plan.gpus or "-")
        table.add_row(
            plan.gpu.name,
            plan.precision,
            count if low == high else f"{count} ({low or '-'} to {high or '-'})",
            f"{plan.rate:.0f}",
            f"{plan.capacity:.0f}",
            "-" if plan.p99_s is None else f"{plan.p99_s * 1e3:.1f}",
            f"{plan.memory.total / 1e9:.2f}",
            f"{plan.host_cores:.1f}",
            plan.bound,
            plan.roofline,
        )
    console.print(table)


def say(text: str, style: str = "") -> None:
    """Print text that is not markup, unwrapped."""
    console.print(Text(text, style=style), highlight=False, soft_wrap=True)
