"""The command line: ``tritonforge build | serve | predict | chat | doctor`` and others."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.text import Text

from tritonforge import __version__
from tritonforge.cli.benchmark import benchmark
from tritonforge.cli.build import build
from tritonforge.cli.chat import chat
from tritonforge.cli.compare import app as compare_app
from tritonforge.cli.demo import demo
from tritonforge.cli.demo_chat import demo_chat
from tritonforge.cli.deploy import app as deploy_app
from tritonforge.cli.doctor import doctor
from tritonforge.cli.estimate import estimate
from tritonforge.cli.gateway import app as gateway_app
from tritonforge.cli.loadtest import app as loadtest_app
from tritonforge.cli.pack import fetch, pack
from tritonforge.cli.predict import predict
from tritonforge.cli.recipe import app as recipe_app
from tritonforge.cli.serve import serve
from tritonforge.cli.trace import trace
from tritonforge.cli.tune import tune
from tritonforge.cli.validate import validate
from tritonforge.console import err_console, print_json
from tritonforge.errors import TritonForgeError

app = typer.Typer(
    help="From a transformer model folder to a served Triton model: padding-free encoders, text generation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(recipe_app, name="recipe")
app.command()(build)
app.command()(benchmark)
app.command()(validate)
app.command()(tune)
app.command()(estimate)
app.command()(pack)
app.command()(fetch)
app.command()(serve)
app.command()(predict)
app.command()(trace)
app.command()(chat)
app.add_typer(gateway_app, name="gateway")
app.add_typer(compare_app, name="compare")
app.add_typer(loadtest_app, name="loadtest")
app.add_typer(deploy_app, name="deploy")
app.command()(doctor)
app.command()(demo)
app.command()(demo_chat)


def _print_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        typer.echo(f"tritonforge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


def _print_error(error: TritonForgeError) -> None:
    """Print the parts below each other; their text is not markup (`pip install 'tritonforge[build]'`)."""
    lines = [
        ("error", "bold red", error.where or ""),
        ("", "", error.what),
        ("mend", "green", error.mend or ""),
    ]
    for name, style, text in lines:
        if text or name == "error":
            err_console.print(Text.assemble((f"{name:>5}  ", style), text), soft_wrap=True)


def main() -> None:
    """Entry point: turns our own errors into a message and an exit status."""
    try:
        app()
    except TritonForgeError as error:
        if "--json" in sys.argv:
            print_json(error.as_dict())
        else:
            _print_error(error)
        sys.exit(error.exit_code)
