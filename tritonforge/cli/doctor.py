"""``tritonforge doctor``: what this machine has and lacks for serving, and what mends it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tritonforge.console import console, print_json
from tritonforge.server import ServerOptions
from tritonforge.server.checks import Check, run_checks

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    repository: Annotated[Path, typer.Option(help="Model repository that will be served.")] = Path(
        "model_repository"
    ),
    host: Annotated[str, typer.Option(help="Address the server will listen on.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP port; 0: not checked.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0: not checked.")] = 8001,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Metrics port; 0: not checked.")] = 8002,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine for serving; exit status 1 if a server would not start."""
    options = ServerOptions(host=host, http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port)
    checks = run_checks(options, repository)
    failed = sum(check.status == "fail" for check in checks)
    if as_json:
        print_json({"ok": failed == 0, "checks": [asdict(check) for check in checks]})
    else:
        _print_table(checks, failed)
    raise typer.Exit(1 if failed else 0)


def _print_table(checks: list[Check], failed: int) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("status", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for check in checks:
        # Text, not markup: a path or a command may hold square brackets.
        detail = Text(check.detail)
        if check.mend and check.status != "ok":
            detail.append(f"\nmend: {check.mend}", style="green")
        table.add_row(Text(check.status, style=_STYLES[check.status]), Text(check.name), detail)
    console.print(table)
    console.print()
    warned = sum(check.status == "warn" for check in checks)
    console.print(
        f"{len(checks)} checks, {failed} failed, {warned} with a warning", highlight=False, soft_wrap=True
    )
