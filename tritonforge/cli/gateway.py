"""``tritonforge gateway``: the front door, and what belongs to it: its Envoy configuration, keys, tokens."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonforge.cli.extras import require
from tritonforge.console import console, print_json
from tritonforge.errors import UsageError

if TYPE_CHECKING:
    from gateway.config import GatewayConfig
    from gateway.control.supervisor import Gateway
    from gateway.security.api_keys import ApiKeyStore

app = typer.Typer(
    help="The front door: REST, OpenAI, WebSocket and gRPC behind Envoy.", no_args_is_help=False
)
keys = typer.Typer(help="API keys: make, list, revoke.", no_args_is_help=True)
app.add_typer(keys, name="keys")

DEFAULT = Path("gateway.yaml")
ConfigOption = Annotated[Path, typer.Option("--config", help="The gateway's configuration.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def gateway(
    context: typer.Context,
    config: ConfigOption = DEFAULT,
    open_door: Annotated[
        bool, typer.Option("--open", help="Try it out: no configuration, no tokens, this machine only.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Check the configuration, with Envoy too, and stop.")
    ] = False,
    start_timeout: Annotated[int, typer.Option(min=1, help="Seconds that the start may take.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Run the front door until SIGTERM or Ctrl-C.

    A stop answers the requests in flight first.
    """
    if context.invoked_subcommand is not None:
        return
    _require()
    loaded = _open_config() if open_door else _load(config)
    if not _has_a_way_in(loaded):
        raise UsageError(
            "nobody could come in: auth names no issuer, no development secret and no API keys",
            where=str(config),
            mend="add one (docs/gateway.md), or try `tritonforge gateway --open` on this machine",
        )
    if check:
        _check(loaded)
        if as_json:
            print_json({"config": str(config), "valid": True})
        else:
            words = f"{config} is valid, and so is the Envoy configuration made from it"
            console.print(words, markup=False, soft_wrap=True)
        return
    asyncio.run(_run(loaded, start_timeout, as_json))


@app.command()
def init() -> None:
    """Print a gateway.yaml with every key and its default, to begin from."""
    from gateway.config.reference import reference

    typer.echo(reference(), nl=False)


@app.command()
def render(
    config: ConfigOption = DEFAULT,
    open_door: Annotated[bool, typer.Option("--open", help="As of `tritonforge gateway --open`.")] = False,
) -> None:
    """Print the Envoy configuration that a gateway.yaml comes to; it holds no secrets."""
    _require()
    from gateway.control.prepare import shown

    print_json(shown(_open_config() if open_door else _load(config)))


@app.command()
def token(
    subject: Annotated[str, typer.Option(help="Who the token is for.")],
    scope: Annotated[
        list[str], typer.Option(help="embed, classify, generate, kserve, model:NAME or model:*; repeat it.")
    ],
    config: ConfigOption = DEFAULT,
    ttl: Annotated[int, typer.Option(min=1, help="Seconds until it expires.")] = 3600,
) -> None:
    """Print a development token, signed with the secret that auth.development names."""
    _require()
    from gateway.security.tokens import mint

    typer.echo(mint(_load(config), subject, scope, ttl))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    scope: Annotated[list[str], typer.Option(help="As of `gateway token`; repeat it.")],
    config: ConfigOption = DEFAULT,
    expires_in_days: Annotated[int | None, typer.Option(min=1, help="Default: it does not expire.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key and print it once; only its digest is kept."""
    store = _store(config)
    made = store.create(scope, name, expires_in_days=expires_in_days)
    if as_json:
        print_json({"id": made.id, "key": made.key})
    else:
        typer.echo(made.key)


@keys.command("list")
def list_keys(config: ConfigOption = DEFAULT, as_json: JsonOption = False) -> None:
    """List the keys: who they are for and what they may do."""
    entries = _store(config).list()
    if as_json:
        print_json([entry.model_dump(mode="json", exclude={"sha256"}) for entry in entries])
        return
    now = datetime.now(UTC)
    for entry in entries:
        state = "valid" if entry.valid(now) else "revoked" if entry.revoked else "expired"
        console.print(f"{entry.id}  {state}  {entry.subject}  {' '.join(entry.scopes)}", markup=False)


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID")], config: ConfigOption = DEFAULT) -> None:
    """End a key at once, without a restart."""
    _store(config).revoke(key_id)
    console.print(f"{key_id} is revoked", markup=False)


@app.command("log-level")
def log_level(
    level: Annotated[
        str | None, typer.Argument(help="debug, info, warning or error; without one: show what holds.")
    ] = None,
    component: Annotated[
        list[str] | None,
        typer.Option(help="facade, supervisor or envoy; repeat it. Default: facade and supervisor."),
    ] = None,
    run_folder: Annotated[
        Path | None, typer.Option(help="Of the gateway that is meant, where several run here.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Log more or less from now on, without a restart.

    At debug Envoy writes headers, tokens among them, and the facade the messages of exceptions, which may
    hold what a caller sent.
    """
    _require()
    from gateway.control.levels import COMPONENTS, LEVELS, ask, find_gateway
    from gateway.paths import RunPaths

    components = component or ["facade", "supervisor"]
    wrong = [name for name in components if name not in COMPONENTS]
    if wrong or (level is not None and level not in LEVELS):
        raise UsageError(
            f"there is no component {wrong[0]}" if wrong else f"there is no level {level}",
            mend=f"components are {', '.join(COMPONENTS)}; levels {', '.join(LEVELS)}",
        )
    paths = find_gateway() if run_folder is None else RunPaths(run_folder)
    levels = ask(paths)
    for name in components if level is not None else ():
        levels = ask(paths, name, level)
    if as_json:
        print_json({"run_folder": str(paths.folder), "levels": levels})
        return
    for name, now in levels.items():
        console.print(f"{name:<10} {now}", markup=False, highlight=False)


def _require() -> None:
    require("the gateway", "gateway", "fastapi", "uvicorn", "grpc", "re2", "limits", "joserfc", "orjson")


def _load(path: Path) -> GatewayConfig:
    from gateway.config import load_config

    return load_config(path)


def _open_config() -> GatewayConfig:
    from gateway.config import GatewayConfig

    return GatewayConfig.model_validate({"auth": {"disabled": True}})


def _has_a_way_in(config: GatewayConfig) -> bool:
    auth = config.auth
    return bool(auth.disabled or auth.issuers or auth.development or auth.api_keys)


def _store(path: Path) -> ApiKeyStore:
    _require()
    from gateway.security.api_keys import ApiKeyStore

    section = _load(path).auth.api_keys
    if section is None:
        raise UsageError(
            "auth.api_keys is not set", where=str(path), mend="add `auth: {api_keys: {file: keys.json}}`"
        )
    return ApiKeyStore(Path(section.file))


def _check(config: GatewayConfig) -> None:
    from gateway.control.prepare import check

    check(config)


async def _run(config: GatewayConfig, start_timeout: int, as_json: bool) -> None:
    """Run until a signal; a second one ends it at once."""
    from gateway.control.supervisor import Gateway
    from gateway.logs import configure_logs

    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)  # children end with this process
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    running = Gateway(config)
    configure_logs("supervisor", config.logs.level, running.config.logs.style)
    try:
        await running.start(start_timeout)
        _announce(running, as_json)
        ended = asyncio.create_task(running.wait())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            ended.result()
    finally:
        await running.stop()


def _announce(running: Gateway, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "url": running.url,
                "grpc": running.address,
                "metrics": running.metrics_url,
                "pid": os.getpid(),
                "run_folder": str(running.paths.folder),
            }
        )
        return
    lines = [
        f"the door is open at {running.url}",
        "  REST       POST /embed, /classify, /predict; GET /docs",
        f"  OpenAI     base_url={running.url}/v1",
        f"  gRPC       {running.address}  tritonforge.v1.ModelService, and KServe v2",
        "  WebSocket  /ws/generate",
        f"  metrics    {running.metrics_url}/metrics",
        "",
        "Ctrl-C stops it.",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
