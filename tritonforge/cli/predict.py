"""``tritonforge predict``: one request, from the shell."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from tritonforge.cli.extras import require
from tritonforge.console import console, print_json
from tritonforge.errors import RepositoryError, ServerError, UsageError

if TYPE_CHECKING:
    from clients import Client


def predict(
    model: Annotated[str, typer.Argument(help="Name of the ensemble, for example minilm.")],
    texts: Annotated[list[str], typer.Argument(help="One or more texts; - reads lines from standard input.")],
    url: Annotated[
        str | None, typer.Option(help="host:port; 127.0.0.1 and the protocol's default port if absent.")
    ] = None,
    protocol: Annotated[Literal["grpc", "http"], typer.Option(help="Which endpoint to use.")] = "grpc",
    repository: Annotated[
        Path, typer.Option(help="Where to look for the names of models, if MODEL is unknown.")
    ] = Path("model_repository"),
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 30.0,
    json_: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
) -> None:
    """Send TEXTS to MODEL on a running server and print what it answers."""
    require("predict", "loadtest", "tritonclient")
    from clients import Client, ClientError, ModelNotFoundError, UnavailableError

    lines = [line for text in texts for line in (sys.stdin.read().splitlines() if text == "-" else [text])]
    if not lines:
        raise UsageError(
            "there is no text to send", mend="give at least one text, or lines on standard input"
        )
    address = url or f"127.0.0.1:{8001 if protocol == 'grpc' else 8000}"
    try:
        with Client(address, model, protocol=protocol, timeout=timeout) as client:
            start = time.perf_counter()
            rows = _answers(client, lines)
            seconds = time.perf_counter() - start
    except ValueError as error:
        raise UsageError(str(error), where="--url", mend="give host:port without a scheme") from error
    except ModelNotFoundError as error:
        raise RepositoryError(str(error), where=model, mend=_known_models(repository)) from error
    except UnavailableError as error:
        raise ServerError(str(error), where=address, mend="start one with: tritonforge serve") from error
    except ClientError as error:
        raise ServerError(error.message, where=f"{model} on {address}", mend=error.hint) from error
    if json_:
        print_json({"model": model, "latency_ms": seconds * 1e3, "answers": rows})
    else:
        _print_table(model, rows, seconds)


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


def _known_models(repository: Path) -> str:
    """What the user may have meant."""
    names = sorted(path.parent.name for path in repository.glob("[!.]*/config.pbtxt"))
    if not names:
        return "build one with: tritonforge build recipes/minilm.yaml"
    return f"{repository} holds {', '.join(names)}; load it with: tritonforge serve"
