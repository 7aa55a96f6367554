"""``tritonforge validate``: is what is published still the model that it was built from?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from build_engines.gate.wording import example, number
from tritonforge.cli.extras import require
from tritonforge.console import console, err_console, print_json
from tritonforge.errors import UsageError

if TYPE_CHECKING:
    from build_engines.gate.validate import Validation
    from build_engines.gate.verdict import GateCheck, Verdict
    from build_engines.generation.validate import GeneratorValidation

_PROMPTS = 16  # of a file: each is answered, and read again by transformers
_STYLES = {"pass": "green", "fail": "bold red", "skipped": "dim"}


def validate(
    model: Annotated[str, typer.Argument(help="Name of a published model, for example minilm.")],
    repository: Annotated[Path, typer.Option(help="Model repository that holds it.")] = Path(
        "model_repository"
    ),
    texts: Annotated[
        str | None, typer.Option(metavar="FILE", help="Judge by these texts instead of the recipe's.")
    ] = None,
    labelled: Annotated[
        str | None, typer.Option(metavar="FILE", help="Labelled data (.jsonl) for the task's own metric.")
    ] = None,
    build_dir: Annotated[
        Path, typer.Option(help="Where its build left the float32 engine, to compare the speed with.")
    ] = Path("build"),
    json_: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Judge a published MODEL by the thresholds of its recipe.

    Checks the weights, the architecture and the vocabulary, runs the engine against eager transformers,
    and compares accuracy and speed with float32. Of a model that generates, greedy answers are held
    against transformers instead. Exits 1 if a check fails.
    """
    require("validating", "build", "torch", "transformers", "tokenizers", "tritonclient")
    if is_generator(repository, model):
        _validate_generator(model, repository, texts, labelled, json_)
        return
    from build_engines.gate.published import find_published
    from build_engines.gate.validate import Validation

    published = find_published(repository, model)
    validation = Validation(published, build_dir, texts, labelled)
    _run(validation, model, published.version, json_)


def is_generator(repository: Path, model: str) -> bool:
    """Whether a model's manifest says so; False as well where there is none."""
    from tritonforge.server.repository import MANIFEST

    try:
        manifest = json.loads((repository / model / MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest["build"]["task"] == "generation")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _validate_generator(
    model: str, repository: Path, texts: str | None, labelled: str | None, json_: bool
) -> None:
    """Judge a model that generates text."""
    require("validating a generator", "build", "openvino_genai")
    from build_engines.generation.validate import GeneratorValidation, find_generator_version
    from build_engines.texts import read_texts, resolve_source

    if labelled is not None:
        raise UsageError("--labelled has no meaning for generation", mend="give prompts with --texts")
    prompts = None
    if texts is not None:
        prompts = list(dict.fromkeys(read_texts(resolve_source(texts, "--texts"), "text", "--texts")))
        prompts = prompts[:_PROMPTS]
    published = find_generator_version(repository, model)
    _run(GeneratorValidation(published, prompts), model, published.version, json_)


def _run(validation: Validation | GeneratorValidation, model: str, version: int, json_: bool) -> None:
    """Judge and print.

    Raises:
        typer.Exit: A check failed.
    """
    if json_:
        verdicts = validation.run()
        print_json(
            {
                "model": model,
                "version": version,
                "passed": all(verdict.passed for verdict in verdicts),
                "verdicts": [verdict.as_dict() for verdict in verdicts],
            }
        )
    else:
        with err_console.status("reading") as status:
            validation.progress = status.update
            verdicts = validation.run()
        for verdict in verdicts:
            _print_verdict(f"{model} version {version}", verdict)
    if not all(verdict.passed for verdict in verdicts):
        raise typer.Exit(1)


def _print_verdict(title: str, verdict: Verdict) -> None:
    """A row a check, then what failed, with examples and what to try."""
    table = Table(title=f"{title}: {verdict.subject}", title_justify="left")
    table.add_column("check", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    for header in ("figure", "threshold"):
        table.add_column(header, justify="right")
    table.add_column("what was looked at", overflow="fold")
    for check in verdict.checks:
        outcome = Text(check.outcome, _STYLES[check.outcome])
        table.add_row(
            check.name, outcome, _optional(check.figure), _optional(check.threshold), Text(check.detail)
        )
    console.print(table)
    for check in verdict.failures:
        _print_failure(check)


def _print_failure(check: GateCheck) -> None:
    """The worst examples of one check, and its mend."""
    console.print(Text.assemble((f"{check.name} failed", "bold red")))
    for fields in check.worst:
        console.print(Text(f"  {example(fields)}"), soft_wrap=True)
    if check.mend:
        console.print(Text.assemble(("  mend  ", "green"), check.mend), soft_wrap=True)


def _optional(value: float | None) -> str:
    """A figure, if there is one."""
    return "" if value is None else number(value)
