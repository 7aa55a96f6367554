"""What can be compared: a system, the processes that it takes, and the ways in which one text is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Precision = Literal["fp32", "int8"]

PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class Environment:
    """A virtual environment of a peer.

    Attributes:
        name: Its folder.
        requirements: What pip installs, pinned.
        shown: Distributions whose versions the page names.
    """

    name: str
    requirements: tuple[str, ...]
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where a system is started.

    Attributes:
        ports: A free port for each name in :attr:`System.ports`.
        threads: Threads that its engine may use.
        python: Interpreter of its environment.
        models: Folder of the forms of the model that peers load.
        work: A folder for its files.
    """

    ports: Mapping[str, int]
    threads: int
    python: Path
    models: Path
    work: Path


@dataclass(frozen=True)
class Process:
    """One process of a system.

    Attributes:
        command: Its arguments.
        ready: URL that answers 2xx once it serves.
        environment: Variables over the caller's.
        folder: Its working directory; None: the caller's.
    """

    command: Sequence[str]
    ready: str
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True)
class Way:
    """One HTTP route that turns a text into its embedding.

    Attributes:
        name: A row's name.
        title: What the page calls it.
        path: Of the URL.
        body: The JSON document that asks one text.
        read: The embedding in the JSON answer.
        answer: What the answer holds, for the page.
        port: Which of the system's ports.
        headers: Beside the content type.
    """

    name: str
    title: str
    path: str
    body: Callable[[str], Any]
    read: Callable[[Any], Sequence[float]]
    answer: str
    port: str = "http"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """A server, or a few that work together, with one model.

    Attributes:
        name: On the command line.
        title: What the page calls it.
        precision: Rows are compared with rows of the same.
        engine: What computes.
        batching: How requests come to share a batch, for the page.
        ways: In; each is a row.
        processes: What to start, in this order.
        environment: Of a peer; None: this project's own.
        model: Which form of the model a peer loads, a folder in :attr:`Place.models`.
        ports: Names of the ports that it listens on.
    """

    name: str
    title: str
    precision: Precision
    engine: str
    batching: str
    ways: tuple[Way, ...]
    processes: Callable[[Place], Sequence[Process]]
    environment: Environment | None = None
    model: str = ""
    ports: tuple[str, ...] = ("http",)

    @property
    def ours(self) -> bool:
        """Whether it is this project's."""
        return self.environment is None


def kserve_body(text: str) -> Any:
    """A KServe v2 request for one text, ``BYTES [1, 1]``."""
    return {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}]}


def kserve_read(answer: Any) -> Sequence[float]:
    """The output ``embedding`` of a KServe v2 answer."""
    data: Sequence[float] = next(out for out in answer["outputs"] if out["name"] == "embedding")["data"]
    return data


def openai_read(answer: Any) -> Sequence[float]:
    """The only embedding of an OpenAI answer."""
    vector: Sequence[float] = answer["data"][0]["embedding"]
    return vector


KSERVE_ANSWER = "KServe v2 JSON: the numbers flat, name, shape and type beside them"
OPENAI_ANSWER = "OpenAI JSON: the numbers, count of tokens, model, index"


def thread_variables(threads: int) -> dict[str, str]:
    """What the libraries under a server read their number of threads from.

    OpenMP's threads, which are torch's, wait asleep: spinning, they take few cores from their own server.
    """
    counts = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS", "RAYON")}
    return {**counts, "OMP_WAIT_POLICY": "passive"}
