"""``tritonforge recipe``: a first recipe for a model folder, and the schema that editors check recipes by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tritonforge.cli.extras import require
from tritonforge.console import console, print_json
from tritonforge.errors import UsageError
from tritonforge.files import replace_text
from tritonforge.recipe import PrecisionChoice, Recipe, ServedTask, load_recipe

app = typer.Typer(help="Recipes: make one for a model folder, print their schema.", no_args_is_help=True)


@app.command()
def new(
    model: Annotated[str, typer.Argument(help="A model folder, a .gguf file, or package:NAME.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The recipe's file; default: NAME.yaml here.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name to serve it under; default: made of the folder's.")
    ] = None,
    task: Annotated[ServedTask | None, typer.Option(help="Default: what the model's files say.")] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Texts like those to be served: to calibrate and to judge on.")
    ] = None,
    precision: Annotated[
        PrecisionChoice | None, typer.Option(help="Default: auto with --texts, else left to the recipe.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a recipe that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look into MODEL's files and write a recipe that builds it."""
    require("reading a model", "build", "safetensors")
    from build_engines.draft import draft_recipe, path_from

    folder = Path() if output is None else output.parent
    keys: dict[str, Any] = {}
    if texts is not None:
        if not texts.exists():
            raise UsageError("no such file or folder", where=str(texts), mend="give --texts what exists")
        keys["calibration"] = {"texts": path_from(texts, folder)}
        precision = precision or "auto"
    if precision is not None:
        keys["precision"] = precision
    draft = draft_recipe(model, folder, name=name, task=task, **keys)
    target = output or Path(f"{draft.recipe.name}.yaml")
    if target.exists() and not force:
        raise UsageError("is there already", where=str(target), mend="give another --output, or --force")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_text(target, draft.text)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", where=str(target), mend="give an --output that can be"
        ) from error
    load_recipe(target)
    if as_json:
        print_json(
            {"recipe": str(target), "name": draft.recipe.name, "task": draft.task, "found": draft.found}
        )
        return
    for line in (draft.found, f"{target} is written. Next:", f"  tritonforge build {target}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes.

    An editor with a YAML language server then completes and checks keys.
    """
    print_json(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **Recipe.model_json_schema(mode="validation"),
        }
    )
