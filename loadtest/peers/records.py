"""What a comparison comes to: ``comparison.json``, and the figures made of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from loadtest.errors import LoadTestError
from loadtest.peers.system import Precision
from loadtest.results import Machine

FORMAT: Literal[1] = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Turn(_Record):
    """One run of the load on one row.

    Attributes:
        round: Which round, from 1.
        connections: Requests in flight.
        requests: Answered well.
        seconds: How long it ran.
        rate: Answered well a second.
        p50_ms: Median latency.
        p99_ms: 99th percentile.
        cpu_ms: CPU time of all the system's processes for each request, milliseconds.
        errors: How many of each kind.
    """

    round: int
    connections: int
    requests: int
    seconds: float
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    errors: dict[str, int] = {}


class Accuracy(_Record):
    """A row's answers beside the reference's.

    Attributes:
        texts: How many, 16 asked at a time.
        mean: Mean cosine.
        least: The least.
        norm: How far a vector's length is from 1 at most.
        wrong: Texts whose answer is clearly nearer to another text's reference: a mix-up.
    """

    texts: int
    mean: float
    least: float
    norm: float
    wrong: int


class Row(_Record):
    """One way into one system.

    Attributes:
        name: Of the way.
        title: What the page calls it.
        system: Name of the system.
        ours: Whether it is this project's.
        precision: Rows of the same are compared.
        engine: What computes.
        versions: Of the packages that matter.
        batching: How requests come to share a batch.
        answer: What an answer holds.
        answer_bytes: Of one answer, headers too.
        accuracy: None where there was no reference.
        idle_cpus: CPUs that the system used while nobody asked.
        start_s: Seconds from the start until it served.
        turns: All runs.
    """

    name: str
    title: str
    system: str
    ours: bool
    precision: Precision
    engine: str
    versions: dict[str, str]
    batching: str
    answer: str
    answer_bytes: float | None = None
    accuracy: Accuracy | None = None
    idle_cpus: float | None = None
    start_s: float | None = None
    turns: tuple[Turn, ...] = ()

    def at(self, connections: int) -> dict[int, Turn]:
        """The turns with so many connections, by round."""
        return {turn.round: turn for turn in self.turns if turn.connections == connections}

    def rate(self, connections: int) -> Spread | None:
        """Requests a second, over the rounds."""
        return Spread.of([turn.rate for turn in self.at(connections).values()])

    def errors(self) -> int:
        """Errors of all turns."""
        return sum(sum(turn.errors.values()) for turn in self.turns)


class Skipped(_Record):
    """A system that was not measured.

    Attributes:
        name: Of the system.
        title: What the page calls it.
        reason: Why.
    """

    name: str
    title: str
    reason: str


class Comparison(_Record):
    """One comparison.

    Attributes:
        format: Of the file.
        started: Unix seconds.
        took_s: Seconds.
        machine: Where.
        threads: Of each system's engine.
        client: Name and version of what made the load.
        model: Name of the model's source.
        mix: Lengths in tokens, and their weights.
        corpus: Where the texts come from.
        texts: How many different ones.
        seconds: Of one turn.
        rounds: How many.
        connections: Requests in flight.
        order: Systems, as the first round took them; every second round went backwards.
        load_before: Load average of the machine before it began.
        rows: What was measured.
        skipped: What was not, and why.
        command: That makes it again.
    """

    format: Literal[1] = FORMAT
    started: float
    took_s: float
    machine: Machine
    threads: int
    client: str
    model: str
    mix: str
    corpus: str
    texts: int
    seconds: float
    rounds: int
    connections: tuple[int, ...]
    order: tuple[str, ...]
    load_before: float
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...] = ()
    command: str

    def of(self, precision: Precision, *, ours: bool) -> list[Row]:
        """Rows of one precision, ours or the peers', in the order they were given."""
        return [row for row in self.rows if row.precision == precision and row.ours == ours]

    def ratios(self, precision: Precision) -> Iterator[Ratio]:
        """Each of our rows over each peer's, at each number of connections."""
        for row in self.of(precision, ours=True):
            for peer in self.of(precision, ours=False):
                for connections in self.connections:
                    if found := ratio(row, peer, connections):
                        yield found


@dataclass(frozen=True)
class Spread:
    """Values of the rounds: their median, the least and the greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread | None:
        """None of no values."""
        return cls(statistics.median(values), min(values), max(values)) if values else None


@dataclass(frozen=True)
class Ratio:
    """How many times a peer's requests a second ours makes.

    Attributes:
        ours: Our row.
        peer: Theirs.
        connections: Requests in flight.
        spread: ``median``: median of ours over median of theirs; the range: of the single rounds.
    """

    ours: Row
    peer: Row
    connections: int
    spread: Spread


def ratio(ours: Row, peer: Row, connections: int) -> Ratio | None:
    """Compare two rows; None if they were not both measured, or the peer answered nothing."""
    mine, theirs = ours.rate(connections), peer.rate(connections)
    if mine is None or theirs is None or not theirs.median:
        return None
    pairs = [
        (turn.rate, peer.at(connections)[number].rate)
        for number, turn in ours.at(connections).items()
        if number in peer.at(connections)
    ]
    median = mine.median / theirs.median
    single = [over / under for over, under in pairs if under]
    return Ratio(
        ours,
        peer,
        connections,
        Spread(median, min(single, default=median), max(single, default=median)),
    )


def read_comparison(path: Path) -> Comparison:
    """Read ``comparison.json``.

    Raises:
        LoadTestError: It is missing, or no comparison of this format.
    """
    try:
        return Comparison.model_validate_json(path.read_bytes())
    except OSError as error:
        raise LoadTestError(
            f"cannot be read: {error.strerror}", where=str(path), mend="tritonforge compare"
        ) from error
    except ValidationError as error:
        raise LoadTestError(
            f"is no comparison of format {FORMAT}", where=str(path), mend="tritonforge compare"
        ) from error
