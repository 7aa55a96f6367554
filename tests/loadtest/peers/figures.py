"""Comparisons with figures that are chosen."""

from __future__ import annotations

from typing import Any

from loadtest.peers.records import Accuracy, Comparison, Row, Turn
from loadtest.results import Machine


def row(name: str, rates: dict[int, list[float]], *, ours: bool = False, **about: Any) -> Row:
    """A row with these rates at each number of connections, a round each."""
    turns = [
        Turn(
            round=number,
            connections=connections,
            requests=round(rate),
            seconds=1,
            rate=rate,
            p50_ms=connections * 1000 / max(rate, 1),
            p99_ms=connections * 2000 / max(rate, 1),
            cpu_ms=2.5,
            errors=about.get("errors", {}),
        )
        for connections, values in rates.items()
        for number, rate in enumerate(values, 1)
    ]
    return Row(
        name=name,
        title=name.title(),
        system=name,
        ours=ours,
        precision=about.get("precision", "fp32"),
        engine="engine",
        versions={"library": "1.2.3"},
        batching="none",
        answer="JSON",
        accuracy=Accuracy(texts=200, mean=0.999, least=0.99, norm=0, wrong=about.get("wrong", 0)),
        turns=tuple(turns),
    )


def comparison(*rows: Row, **changes: Any) -> Comparison:
    return Comparison.model_validate(
        {
            "started": 0,
            "took_s": 1200,
            "machine": Machine(cpu="a processor", cores=2, memory_bytes=2**34),
            "threads": 2,
            "client": "wrk 4.1.0",
            "model": "some_model",
            "mix": "8:1",
            "corpus": "sentences",
            "texts": 2000,
            "seconds": 3,
            "rounds": 3,
            "connections": (1, 16),
            "order": (),
            "load_before": 0.1,
            "rows": rows,
            "command": "tritonforge compare",
            **changes,
        }
    )
