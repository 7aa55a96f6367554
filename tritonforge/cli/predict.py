"""``tritonforge predict``: one request, from the shell."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from tritonforge.cli.extras import require
from tritonforge.cli.generation import (
    MaxTokens,
    Protocol,
    Repository,
    Seed,
    Temperature,
    TopK,
    TopP,
    Url,
    address_of,
    figures,
    generates,
    pace,
    reported,
    sampling,
    write_piece,
)
from tritonforge.console import console, print_json
from tritonforge.errors import UsageError

if TYPE_CHECKING:
    from clients import Client, Sampling


def predict(
    model: Annotated[str, typer.Argument(help="Name of the model, for example minilm or smollm2.")],
    texts: Annotated[list[str], typer.Argument(help="One or more texts; - reads lines from standard input.")],
    url: Url = None,
    protocol: Protocol = "grpc",
    repository: Repository = Path("model_repository"),
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 30.0,
    json_: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="A string at which the answer ends; may be repeated.")
    ] = None,
    as_chat: Annotated[
        bool, typer.Option("--chat", help="Each text is a user's message, not a text to continue.")
    ] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it is generated.")] = False,
) -> None:
    """Send TEXTS to MODEL on a running server and print what it answers.

    The options from --max-tokens on are for models that generate text.
    """
    require("predict", "client", "tritonclient")
    from clients import Client

    lines = [line for text in texts for line in (sys.stdin.read().splitlines() if text == "-" else [text])]
    if not lines:
        raise UsageError(
            "there is no text to send", mend="give at least one text, or lines on standard input"
        )
    options = sampling(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, stop=stop
    )
    address = address_of(url, protocol)
    with (
        reported(model, address, repository),
        Client(address, model, protocol=protocol, timeout=timeout) as client,
    ):
        if generates(client):
            shown: Literal["whole", "stream", ""] = "" if json_ else "stream" if stream else "whole"
            rows = _generate(client, lines, options, as_chat, shown)
            if json_:
                print_json({"model": model, "answers": rows})
            return
        if options or as_chat or stream:
            given = ", ".join([*options, *["chat"] * as_chat, *["stream"] * stream]).replace("_", "-")
            raise UsageError(f"it does not generate text, so it has no use for {given}", where=model)
        start = time.perf_counter()
        rows = _answers(client, lines)
        seconds = time.perf_counter() - start
    if json_:
        print_json({"model": model, "latency_ms": seconds * 1e3, "answers": rows})
    else:
        _print_table(model, rows, seconds)


def _generate(
    client: Client, texts: list[str], options: Sampling, as_chat: bool, shown: Literal["whole", "stream", ""]
) -> list[dict[str, Any]]:
    """Answer one text after the other, and print each answer at its end, as it comes, or not at all."""
    rows = []
    for text in texts:
        messages = [{"role": "user", "content": text}]
        if shown and len(texts) > 1:
            console.print(Text(text, "bold"), soft_wrap=True)
        if shown == "stream":
            pieces = client.chat_stream(messages, **options) if as_chat else client.stream(text, **options)
            with pieces:
                for piece in pieces:
                    write_piece(piece.text)
                answer = pieces.completion
        else:
            answer = client.chat(messages, **options) if as_chat else client.generate(text, **options)
            if shown:
                write_piece(answer.text)
        if shown:
            console.print(Text(f"\n{pace(answer)}", "dim"), soft_wrap=True)
        rows.append({"text": text, **figures(answer)})
    return rows


def _answers(client: Client, texts: list[str]) -> list[dict[str, Any]]:
    """One row a text, by what the model gives."""
    outputs = {output.name for output in client.metadata().outputs}
    if "embedding" in outputs:
        return [
            {"text": text, "embedding": vector.tolist()}
            for text, vector in zip(texts, client.embed(texts), strict=True)
        ]
    found = client.classify(texts)
    return [
        {"text": text, "label": one.label, "score": float(one.score), "scores": scores.tolist()}
        for text, one, scores in zip(texts, found.predictions, found.scores, strict=True)
    ]


def _print_table(model: str, rows: list[dict[str, Any]], seconds: float) -> None:
    """A row a text; vectors are cut, since nobody reads 384 numbers."""
    table = Table(title=f"{model}, {seconds * 1e3:.1f} ms", title_justify="left")
    table.add_column("text")
    table.add_column("label" if "label" in rows[0] else "embedding")
    for row in rows:
        if "label" in row:
            answer = f"{row['label']} ({row['score']:.3f})"
        else:
            head = ", ".join(f"{number:+.4f}" for number in row["embedding"][:4])
            answer = f"[{head}, … {len(row['embedding'])} numbers]"
        table.add_row(row["text"], answer)
    console.print(table, markup=False)
