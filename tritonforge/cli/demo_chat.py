"""``tritonforge demo-chat``: build, serve, talk, show what was counted, stop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tritonforge.cli.build import build
from tritonforge.cli.chat import Chat
from tritonforge.cli.counters import metrics_page, total
from tritonforge.cli.extras import require
from tritonforge.cli.generation import reported, sampling
from tritonforge.console import console
from tritonforge.errors import UsageError
from tritonforge.recipe import load_recipe
from tritonforge.server import ServerOptions, TritonServer

TURNS = (
    "My dog is called Rex. Give me one tip for walking a dog.",
    "What is the name of my dog?",  # the first turn says it
    "What is the capital of France?",
)
_MAX_TOKENS = 60
_COUNTERS_PATIENCE_S = 30.0  # the backend hands its counts over after the answers
_PREFIX = "tritonforge_generation_"
_COUNTERS = {
    "prompt_tokens_total": "tokens of the prompts",
    "tokens_total": "tokens generated",
    "steps_total": "steps of the engine",
    "finished_requests_total": "answers finished",
}
_HISTOGRAMS = {
    "time_to_first_token_seconds": "mean time to the first token (TTFT), ms",
    "time_per_output_token_seconds": "mean time of each further token (TPOT), ms",
}


def demo_chat(
    recipe: Annotated[Path, typer.Argument(help="A recipe of a model that generates text.")] = Path(
        "recipes/smollm2.yaml"
    ),
    repository: Annotated[Path, typer.Option(help="Model repository.")] = Path("model_repository"),
    build_dir: Annotated[Path, typer.Option(help="Artefacts and reports.")] = Path("build"),
) -> None:
    """Build RECIPE, serve it on free ports, hold a short streamed chat, show its metrics, and stop."""
    require("the demo", "build", "tritonclient")
    from clients import Client

    loaded = load_recipe(recipe)
    if loaded.task != "generation":
        raise UsageError(
            "this recipe does not generate text", where=str(recipe), mend=f"tritonforge demo {recipe}"
        )
    name = loaded.name
    build(recipe, repository=repository, build_dir=build_dir)
    log_path = build_dir / name / "demo-server.log"
    with log_path.open("wb") as log:
        start = time.perf_counter()
        options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, models=(name,))
        with TritonServer(repository, options, log_sink=log) as server:
            console.print(
                f"\ntritonserver is up after {time.perf_counter() - start:.1f} s: HTTP {server.http_url}, "
                f"gRPC {server.grpc_url}; log: {log_path}\n",
                highlight=False,
                soft_wrap=True,
            )
            with (
                reported(name, server.grpc_url, repository),
                Client(server.grpc_url, name, timeout=120) as client,
            ):
                chat = Chat(client, sampling(max_tokens=_MAX_TOKENS))
                for turn in TURNS:
                    console.print(Text(f"> {turn}", "bold"), soft_wrap=True)
                    chat.answer(turn)
                    console.print()
            console.print(f"[bold]from {server.metrics_url}[/]", highlight=False)
            console.print(_metrics(_counted(server.metrics_url, name), name))
    console.print(
        f"\nThe server has stopped. To go on yourself: tritonforge serve, and then tritonforge chat {name}",
        highlight=False,
        soft_wrap=True,
    )


def _counted(url: str, model: str) -> str:
    """The page of metrics once all answers are counted in it."""
    deadline = time.monotonic() + _COUNTERS_PATIENCE_S
    while True:
        page = metrics_page(url)
        counted = total(page, f"{_PREFIX}finished_requests_total", model) >= len(TURNS)
        if counted or time.monotonic() > deadline:
            return page
        time.sleep(0.1)


def _metrics(page: str, model: str) -> Table:
    """The key figures of one model."""
    table = Table()
    table.add_column(_PREFIX)
    table.add_column("meaning")
    table.add_column("value", justify="right")

    def figure(metric: str) -> float:
        return total(page, _PREFIX + metric, model)

    for metric, meaning in _COUNTERS.items():
        table.add_row(metric, meaning, f"{figure(metric):.0f}")
    for metric, meaning in _HISTOGRAMS.items():
        count = figure(f"{metric}_count")
        mean = f"{figure(f'{metric}_sum') / count * 1e3:.1f}" if count else "-"
        table.add_row(metric, meaning, mean)
    return table
