"""Every precision of a generator with all that the steps found of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from build_engines.report.candidates import JudgedRow
from build_engines.report.data import BuildReport
from tritonforge.page.formats import number, percent

RISE = "perplexity to float32"


@dataclass(frozen=True)
class GeneratorRow(JudgedRow):
    """One precision; None where no step said.

    Attributes:
        part: As in the figures, for instance ``openvino-genai-fp16``.
        engine: Its engine.
        precision: Of its weights.
        size_bytes: Of its files.
        perplexity: Of held-out text.
        rise: The same over the model's in float32, as a share.
        divergence: From the model's distribution, nats.
        top1: Share of places with the same likeliest token.
        answers: Greedy answers that are the same as the model's, of how many.
        rates: Tokens a second, by streams at once.
        threads: Thread budget.
        verdict: What the gate said, as ``Verdict.as_dict`` gives it.
        chosen: Whether it is the one to be served.
    """

    part: str
    engine: str
    precision: str
    size_bytes: int | None = None
    perplexity: float | None = None
    rise: float | None = None
    divergence: float | None = None
    top1: float | None = None
    answers: str | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    threads: int | None = None
    verdict: Mapping[str, Any] | None = None
    chosen: bool = False

    @property
    def merits(self) -> str:
        """Speed and likelihood, as the end of a sentence."""
        rates = [f"{number(rate)} tokens/s at {streams}" for streams, rate in self.rates.items()]
        said = [*rates, *([f"perplexity {self.rise:+.2%} to float32"] if self.rise is not None else [])]
        return f": {', '.join(said)}" if said else ""


def generator_rows(report: BuildReport) -> list[GeneratorRow]:
    """All precisions, in the order in which they were made; none of an encoder's build."""
    if report.recipe.task != "generation":
        return []
    made, checked, measured = (report.figures(name) for name in ("compress", "check", "measure"))
    gate = report.gate
    rows = []
    for part, facts in made.items():
        found, speed = checked.get(part) or {}, measured.get(part) or {}
        answers = found.get("answers")
        engine = str(facts["engine"])
        rows.append(
            GeneratorRow(
                part=part,
                engine=engine,
                precision=part.removeprefix(f"{engine}-"),
                size_bytes=facts.get("bytes"),
                perplexity=found.get("perplexity"),
                rise=found.get("perplexity_rise"),
                divergence=found.get("kl"),
                top1=found.get("top1"),
                answers=f"{answers['same']} of {answers['prompts']}" if answers else None,
                rates=speed.get("tokens_per_second", {}),
                threads=speed.get("threads"),
                verdict=gate.get("verdicts", {}).get(part),
                chosen=part == gate.get("chosen"),
            )
        )
    return rows


def stream_counts(rows: list[GeneratorRow]) -> list[str]:
    """Numbers of streams that were measured."""
    return list(dict.fromkeys(streams for row in rows for streams in row.rates))


def generator_cells(row: GeneratorRow, streams: list[str]) -> dict[str, str]:
    """One row of the table, by heading; the same in every form of the report."""
    return {
        "MB": number(row.size_bytes / 1e6) if row.size_bytes else number(None),
        "perplexity": number(row.perplexity),
        RISE: number(None) if row.rise is None else f"{row.rise:+.2%}",
        "divergence, nats": number(row.divergence),
        "same likeliest token": percent(row.top1),
        "same greedy answers": row.answers or number(None),
        **{f"tokens/s at {count}": number(row.rates.get(count)) for count in streams},
        "gate": f"{row.outcome}, served" if row.chosen else row.outcome,
    }
