"""FastAPI with sentence-transformers: what most people write first."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.peers.embedder import BACKEND, ENGINE, NEWEST, environment, plain_way, variables
from loadtest.peers.system import Place, Precision, Process, System, thread_variables

_SERVER = ("fastapi==0.163.2", "uvicorn[standard]==0.54.0")
_TORCH = environment("fastapi-torch", *_SERVER, library=NEWEST)
ONNX = environment("fastapi-onnx", *_SERVER)


def _system(precision: Precision, *, workers: bool = False) -> System:
    """One process; or, with ``workers``, a process of one thread for each thread of the budget."""
    name = f"fastapi-{precision}{'-workers' if workers else ''}"
    title = f"FastAPI, {BACKEND[precision]}{', a process a thread' if workers else ''}"

    def processes(place: Place) -> Sequence[Process]:
        count = place.threads if workers else 1
        threads = place.threads // count
        command = [str(place.python), "-m", "uvicorn", "fastapi_server:app", "--host", "127.0.0.1"]
        command += ["--port", str(place.ports["http"]), "--workers", str(count)]
        command += ["--no-access-log", "--log-level", "warning"]
        settings = variables(place, precision, threads) | thread_variables(threads)
        return [Process(command, f"http://127.0.0.1:{place.ports['http']}/health", settings)]

    return System(
        name=name,
        title=title,
        precision=precision,
        engine=ENGINE[precision],
        batching="none; requests run side by side in FastAPI's threads",
        ways=(plain_way(name, title, "/embed"),),
        processes=processes,
        model=precision,
        environment=_TORCH if precision == "fp32" else ONNX,
    )


SYSTEMS = (
    _system("fp32"),
    _system("fp32", workers=True),
    _system("int8"),
    _system("int8", workers=True),
)
