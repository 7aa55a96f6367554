"""``tritonforge demo``: build, serve, ask, show, stop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from tritonforge.cli.build import build
from tritonforge.cli.counters import metrics_page, total
from tritonforge.cli.extras import require
from tritonforge.console import console
from tritonforge.errors import ServerError, UsageError
from tritonforge.recipe import load_recipe
from tritonforge.server import ServerOptions, TritonServer

SENTENCES = (
    "How do I reset my password?",
    "I forgot my login and cannot get in.",
    "The invoice for March is wrong.",
    "You billed me twice this spring.",
    "My parcel arrived broken. 📦",
    "The box was crushed when the postman brought it.",
)
_BURST = 64
_REQUESTS = 4 * _BURST
_COUNTERS_SETTLE_S = 1.0  # the backends hand their counts over after the answers
_METRICS = {
    "tritonforge_sequences_total": "texts encoded",
    "tritonforge_tokens_total": "tokens computed",
    "tritonforge_padding_avoided_tokens_total": "padding avoided, tokens",
    "tritonforge_runs_total": "runs of the engine",
}


def demo(
    recipe: Annotated[Path, typer.Argument(help="An embedding recipe.")] = Path("recipes/minilm.yaml"),
    repository: Annotated[Path, typer.Option(help="Model repository.")] = Path("model_repository"),
    build_dir: Annotated[Path, typer.Option(help="Artefacts and reports.")] = Path("build"),
) -> None:
    """Build RECIPE, serve it on free ports, ask it over HTTP and gRPC, show what Triton did, and stop."""
    require("the demo", "build", "tritonclient")
    from clients import Client

    loaded = load_recipe(recipe)
    if loaded.task == "generation":
        raise UsageError(
            "this recipe generates text", where=str(recipe), mend=f"tritonforge demo-chat {recipe}"
        )
    name = loaded.name
    build(recipe, repository=repository, build_dir=build_dir)
    log_path = build_dir / name / "demo-server.log"
    with log_path.open("wb") as log:
        start = time.perf_counter()
        parts = tuple(
            model for model in (f"{name}_tokenizer", f"{name}_engine", name) if (repository / model).is_dir()
        )
        options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, models=parts)
        with TritonServer(repository, options, log_sink=log) as server:
            console.print(
                f"\ntritonserver is up after {time.perf_counter() - start:.1f} s: HTTP {server.http_url}, "
                f"gRPC {server.grpc_url}; log: {log_path}",
                highlight=False,
                soft_wrap=True,
            )
            with (
                Client(server.grpc_url, name, concurrency=_BURST) as grpc,
                Client(server.http_address, name, protocol="http") as http,
            ):
                vectors = grpc.embed(SENTENCES)
                if not np.allclose(vectors, http.embed(SENTENCES), atol=1e-5):
                    raise ServerError("HTTP and gRPC disagree", where=name, mend="please report this")
                _show("cosine similarity of six sentences; HTTP and gRPC agree", _similarities(vectors))
                with ThreadPoolExecutor(_BURST) as pool:
                    list(pool.map(lambda i: grpc.embed([SENTENCES[i % len(SENTENCES)]]), range(_REQUESTS)))
            _show(
                f"batches that Triton formed of {_REQUESTS} single texts from {_BURST} clients (and of the "
                "warm-up and the sentences above)",
                _batches(server, f"{name}_engine"),
            )
            _show(f"from {server.metrics_url}", _metrics(server))
        console.print("\nThe server has stopped. `make serve` starts it again and leaves it running.")


def _show(heading: str, table: Table) -> None:
    """Print a table under a heading that may be wider than it."""
    console.print(f"\n[bold]{heading}[/]", highlight=False)
    console.print(table)


def _similarities(vectors: NDArray[np.float32]) -> Table:
    """Cosine similarities of the sentences, each pair once."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    table = Table()
    table.add_column("")
    for number in range(1, len(SENTENCES) + 1):
        table.add_column(str(number), justify="right")
    for row, sentence in enumerate(SENTENCES):
        cells = [f"{cosine[row, column]:.2f}" for column in range(row + 1)]
        alike = int(np.argmax(np.where(np.arange(len(SENTENCES)) == row, -1.0, cosine[row])))
        if alike < row:
            cells[alike] = f"[bold green]{cells[alike]}[/]"
        table.add_row(f"{row + 1}  {sentence}", *cells)
    return table


def _batches(server: TritonServer, engine: str) -> Table:
    """Batch sizes that Triton formed, from its statistics extension."""
    response = httpx.get(f"{server.http_url}/v2/models/{engine}/stats", timeout=30.0, trust_env=False)
    stats: Mapping[str, Any] = response.raise_for_status().json()["model_stats"][0]
    table = Table()
    table.add_column("batch size", justify="right")
    table.add_column("executions", justify="right")
    for batch in sorted(stats["batch_stats"], key=lambda b: int(b["batch_size"])):
        table.add_row(str(batch["batch_size"]), str(batch["compute_infer"]["count"]))
    table.add_section()
    table.add_row(f"{stats['inference_count']} texts", str(stats["execution_count"]))
    return table


def _metrics(server: TritonServer) -> Table:
    """The key figures from the Prometheus endpoint, once they stand still."""
    found: dict[str, float] = {}
    while found != (found := _counters(server)):
        time.sleep(_COUNTERS_SETTLE_S)
    table = Table()
    table.add_column("metric")
    table.add_column("meaning")
    table.add_column("value", justify="right")
    for metric, meaning in _METRICS.items():
        table.add_row(metric, meaning, f"{found[metric]:.0f}")
    return table


def _counters(server: TritonServer) -> dict[str, float]:
    page = metrics_page(server.metrics_url)
    return {metric: total(page, metric) for metric in _METRICS}
