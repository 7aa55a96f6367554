"""What the commands that talk to a generation model share: options, errors, and what is printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tritonforge.console import console
from tritonforge.errors import RepositoryError, ServerError, UsageError

if TYPE_CHECKING:
    from clients import Client, Completion, Sampling

Url = Annotated[
    str | None, typer.Option(help="host:port; 127.0.0.1 and the protocol's default port if absent.")
]
Protocol = Annotated[Literal["grpc", "http"], typer.Option(help="Which endpoint to use.")]
Repository = Annotated[Path, typer.Option(help="Where to look for the names of models, if MODEL is unknown.")]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens of an answer at most; default: the model's.")
]
Temperature = Annotated[
    float | None, typer.Option(min=0.0, help="0: always the most likely token. Default: the model's.")
]
TopP = Annotated[float | None, typer.Option(help="Choose from the likeliest tokens that make up this share.")]
TopK = Annotated[int | None, typer.Option(min=0, help="Choose from so many likeliest tokens; 0: all.")]
Seed = Annotated[int | None, typer.Option(min=0, help="The same seed gives the same answer.")]

# What could move the cursor, clear the screen or set the terminal's title: a model may say anything.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def address_of(url: str | None, protocol: str) -> str:
    """Where the server is."""
    return url or f"127.0.0.1:{8001 if protocol == 'grpc' else 8000}"


@contextmanager
def reported(model: str, address: str, repository: Path) -> Iterator[None]:
    """Turn the clients' errors into the command line's, each with what to do."""
    from clients import ClientError, InvalidRequestError, ModelNotFoundError, UnavailableError

    try:
        yield
    except ValueError as error:
        about_url = "://" in address
        raise UsageError(
            str(error),
            where="--url" if about_url else None,
            mend="give host:port without a scheme" if about_url else None,
        ) from error
    except ModelNotFoundError as error:
        raise RepositoryError(str(error), where=model, mend=_known_models(repository)) from error
    except UnavailableError as error:
        raise ServerError(str(error), where=address, mend="start one with: tritonforge serve") from error
    except InvalidRequestError as error:
        raise UsageError(error.message, where=f"{model} on {address}", mend=error.hint) from error
    except ClientError as error:
        raise ServerError(error.message, where=f"{model} on {address}", mend=error.hint) from error


def _known_models(repository: Path) -> str:
    """What the user may have meant."""
    names = sorted(path.parent.name for path in repository.glob("[!.]*/config.pbtxt"))
    if not names:
        return "build one with: tritonforge build recipes/minilm.yaml"
    return f"{repository} holds {', '.join(names)}; load it with: tritonforge serve"


def generates(client: Client) -> bool:
    """Whether the model answers with text."""
    return "text_output" in {output.name for output in client.metadata().outputs}


def sampling(**options: Any) -> Sampling:
    """The options that were given."""
    chosen: Any = {name: value for name, value in options.items() if value is not None}
    given: Sampling = chosen
    return given


def write_piece(text: str) -> None:
    """Print a part of an answer at once, without what would drive the terminal."""
    console.file.write(_CONTROL.sub("", text))
    console.file.flush()


def figures(answer: Completion) -> dict[str, Any]:
    """An answer for ``--json``."""
    return {
        "output": answer.text,
        "tokens_generated": answer.completion_tokens,
        "prompt_tokens": answer.prompt_tokens,
        "finish_reason": answer.finish_reason,
        "latency_ms": answer.latency * 1e3,
        "ttft_ms": None if answer.ttft is None else answer.ttft * 1e3,
    }


def pace(answer: Completion) -> str:
    """Tokens, time to the first, and tokens a second after it, in one line."""
    count = answer.completion_tokens
    parts = [f"{count} token" + "s" * (count != 1)]
    if answer.ttft is not None:
        parts.append(f"first after {answer.ttft * 1e3:.0f} ms")
        rest = answer.latency - answer.ttft
        if count > 1 and rest > 0:
            parts.append(f"{(count - 1) / rest:.1f} tokens/s")
    else:
        parts.append(f"{answer.latency * 1e3:.0f} ms")
    if answer.finish_reason == "length":
        parts.append("cut at its token limit")
    elif answer.finish_reason == "cancelled":
        parts.append("stopped")
    return ", ".join(parts)
