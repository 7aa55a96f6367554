"""``tritonforge pack`` and ``tritonforge fetch``: a model repository as one archive, and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tritonforge.console import console, err_console, print_json

JsonOption = Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")]


def pack(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="What to pack; default: all.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Archive to write.")] = Path("model_repository.tar"),
    repository: Annotated[Path, typer.Option(help="Model repository that holds the models.")] = Path(
        "model_repository"
    ),
    as_json: JsonOption = False,
) -> None:
    """Pack models, with all that they call, into one archive.

    Prints its SHA-256, which `tritonforge fetch` and `tritonforge deploy render` take. The same files give
    the same digest.
    """
    from tritonforge.pack.write import pack as write

    with err_console.status("packing"):
        packed = write(repository, output, models or ())
    if as_json:
        print_json({**asdict(packed), "path": str(packed.path)})
        return
    _print(
        ("archive", f"{packed.path} ({_mebibytes(packed.size)})"),
        ("models", ", ".join(packed.models)),
        ("sha256", packed.sha256),
    )


def fetch(
    source: Annotated[
        str,
        typer.Argument(help="A file, or a URL with https://, s3://, gs://, az:// (http:// with --sha256)."),
    ],
    into: Annotated[Path, typer.Option(help="Folder for the models; it holds nothing else.")],
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="What the archive's SHA-256 must be.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch an archive of `tritonforge pack`, verify it, and put its models in place.

    Credentials come from the environment: the role of the pod, task or instance, or the variables of the
    store. With --sha256, models that lie there already are verified instead of fetched again.
    """
    from tritonforge.pack.fetch import fetch as get

    with err_console.status("fetching") as status:
        fetched = get(source, into, sha256, lambda size: status.update(f"fetching: {_mebibytes(size)}"))
    if as_json:
        print_json({**asdict(fetched), "into": str(fetched.into)})
        return
    how = "fetched and verified" if fetched.changed else "there already, and verified"
    _print(
        ("source", fetched.source),
        ("models", f"{', '.join(fetched.models)} ({_mebibytes(fetched.size)}) in {fetched.into}: {how}"),
        ("sha256", fetched.sha256 if sha256 else f"{fetched.sha256} (not compared: no --sha256)"),
    )


def _print(*rows: tuple[str, str]) -> None:
    for name, value in rows:
        console.print(Text.assemble((f"{name:>7}  ", "bold"), value), soft_wrap=True)


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
