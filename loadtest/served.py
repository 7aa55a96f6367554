"""What a running server says about a model, and what this machine is: facts for a report."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from loadtest.credentials import API_KEY_VARIABLE, TOKEN_VARIABLE, credentials
from loadtest.errors import LoadTestError
from loadtest.results import Machine
from tritonforge.errors import first_line
from tritonforge.server.resources import cpu_name

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Served:
    """A model, as its server or gateway describes it.

    Attributes:
        model: Its name.
        task: ``embedding``, ``classification`` or ``generation``.
        text_input: Name of the input that takes texts.
        parts: Models that a request passes, itself included; the one with the engine is last.
        engine: Engine and precision, where the configuration tells.
        engine_threads: Threads of an engine instance, 0 for all cores; None where they are unknown.
        version: tritonserver's; None if unknown.
    """

    model: str
    task: str
    text_input: str = "text"
    parts: tuple[str, ...] = ()
    engine: str | None = None
    engine_threads: int | None = None
    version: str | None = None

    @property
    def generates(self) -> bool:
        """Whether it answers with text, token by token."""
        return self.task == "generation"


def ask_triton(url: str, protocol: str, model: str) -> Served:
    """Ask a tritonserver, or a gateway in front of one (with the environment's credentials), about a model.

    Args:
        url: ``host:port``.
        protocol: ``grpc`` or ``http``.
        model: The model.

    Raises:
        LoadTestError: Nobody answers there, it is no tritonserver, or it has no such model.
    """
    ask = _over_grpc if protocol == "grpc" else _over_http
    version, config = ask(url, model)
    steps = config.get("ensemble_scheduling", {}).get("step", ())
    parts: dict[str, dict[str, Any]] = {}
    for step in steps:
        # Who may use a model through a gateway may not see its parts, perhaps.
        with contextlib.suppress(LoadTestError):
            parts[step["model_name"]] = {}
            parts[step["model_name"]] = ask(url, step["model_name"])[1]
    # The engine is the part that names one; of an ensemble without such, the last.
    named = [name for name, part in parts.items() if "engine" in _parameters(part)]
    engine = named[-1] if named else next(reversed(parts), model)
    order = (*(name for name in parts if name != engine), *((model,) if parts else ()), engine)
    found = _parameters(parts.get(engine, config))
    inputs = [each["name"] for each in config["input"] if each["data_type"] == "TYPE_STRING"]
    task = _parameters(config).get("task") or _guessed_task(config)
    if not inputs or task is None:
        raise LoadTestError(
            "it takes no text, or gives nothing that is known here",
            where=f"model {model}",
            mend="load a model that `tritonforge build` made",
        )
    words = " ".join(found[key] for key in ("engine", "precision") if key in found)
    threads = int(found["threads"]) if "threads" in found else None
    return Served(model, task, inputs[0], order, words or None, threads, version)


def ask_gateway(url: str, model: str) -> Served:
    """Ask a gateway about a model, with the credentials of the environment.

    What stands behind it is asked for too, where the credentials allow (scope ``kserve``).

    Args:
        url: Base URL.
        model: The model.

    Raises:
        LoadTestError: Nobody answers there, or the caller may not use the model.
    """
    base = url if "//" in url else f"http://{url}"
    headers = credentials()
    try:
        with httpx.Client(base_url=base, timeout=TIMEOUT_S, trust_env=False, headers=headers) as client:
            answer = client.get(f"/v1/models/{model}")
            config = client.get(f"/v2/models/{model}/config")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LoadTestError(
            f"no gateway answers: {first_line(error)}",
            where=url,
            mend="check --url (`tritonforge gateway`: http://localhost:8080), or leave it out to start one",
        ) from error
    if answer.status_code in (401, 403):
        raise LoadTestError(
            f"the gateway wants to know who calls (HTTP {answer.status_code})",
            where=url,
            mend=f"put a token into {TOKEN_VARIABLE}, an API key into {API_KEY_VARIABLE}, or --token-file",
        )
    if not answer.is_success or "task" not in answer.json():
        raise LoadTestError(
            f"the gateway has no such model for this caller (HTTP {answer.status_code})",
            where=f"model {model} on {url}",
            mend=f"see what it has: curl -s {base}/v1/models",
        )
    if config.is_success and base.startswith("http:"):
        return ask_triton(base.partition("//")[2].rstrip("/"), "http", model)
    return Served(model, answer.json()["task"], parts=(model,))


def this_machine() -> Machine:
    """The machine that the load comes from."""
    from tritonforge.server.resources import memory_limit

    return Machine(
        cpu=cpu_name(), cores=len(os.sched_getaffinity(0)), memory_bytes=memory_limit(), gpu=_gpus()
    )


def _parameters(config: Mapping[str, Any]) -> dict[str, str]:
    return {key: value["string_value"] for key, value in config.get("parameters", {}).items()}


def _guessed_task(config: Mapping[str, Any]) -> str | None:
    """From the outputs, of a model that declares no task."""
    tasks = {"text_output": "generation", "embedding": "embedding", "scores": "classification"}
    outputs = {each["name"] for each in config["output"]}
    return next((task for name, task in tasks.items() if name in outputs), None)


def _over_http(url: str, model: str) -> tuple[str, dict[str, Any]]:
    try:
        with httpx.Client(
            base_url=f"http://{url}", timeout=TIMEOUT_S, trust_env=False, headers=credentials()
        ) as client:
            server = client.get("/v2")
            answer = client.get(f"/v2/models/{model}/config")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _absent(url, first_line(error)) from error
    if answer.is_success and server.is_success:
        return server.json()["version"], answer.json()
    raise _refused(url, model, answer.text, answer.status_code in (401, 403))


def _over_grpc(url: str, model: str) -> tuple[str, dict[str, Any]]:
    import tritonclient.grpc
    from tritonclient.utils import InferenceServerException

    try:
        with tritonclient.grpc.InferenceServerClient(url) as client:
            common = {"headers": credentials(), "as_json": True, "client_timeout": TIMEOUT_S}
            server = client.get_server_metadata(**common)
            config = client.get_model_config(model, **common)
    except InferenceServerException as error:
        status = str(error.status() or "")
        if any(word in status for word in ("UNAVAILABLE", "DEADLINE", "UNKNOWN", "INTERNAL")):
            raise _absent(url, str(error.message())) from error
        refused = any(word in status for word in ("UNAUTHENTICATED", "PERMISSION"))
        raise _refused(url, model, str(error.message()), refused) from error
    return server["version"], config["config"]


def _absent(url: str, reason: str) -> LoadTestError:
    return LoadTestError(
        f"nobody answers as tritonserver does: {reason}",
        where=url,
        mend="check --url and --target (tritonforge serve: gRPC on 8001, HTTP on 8000), or leave --url out: "
        "then a server is started",
    )


def _refused(url: str, model: str, words: str, credentials: bool) -> LoadTestError:
    mend = "see which models the server has: curl -s -X POST localhost:8000/v2/repository/index"
    if credentials:
        mend = "load tritonserver itself, or a gateway by `--tool locust` with a token"
    return LoadTestError(
        f"the server says: {words.strip()[:300]}", where=f"model {model} on {url}", mend=mend
    )


def _gpus() -> tuple[str, ...]:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(done.stdout.split("\n")[:-1]) if done.returncode == 0 else ()
