"""Every engine in every precision with all that the steps found of it, and what the build came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from build_engines.report.data import BuildReport
from tritonforge.page.formats import cosine, percent, times

MODEL = "model"  # the verdict on the model itself, among those on the candidates


class JudgedRow:
    """What a row of any task says of itself."""

    engine: str
    precision: str
    verdict: Mapping[str, Any] | None
    chosen: bool

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.engine} {self.precision}"

    @property
    def outcome(self) -> str:
        """What the gate came to."""
        if self.verdict is None:
            return "not judged"
        return "pass" if self.verdict["passed"] else "fail"

    @property
    def merits(self) -> str:
        """Speed and accuracy, as the end of a sentence."""
        raise NotImplementedError


@dataclass(frozen=True)
class CandidateRow(JudgedRow):
    """One engine in one precision; None where no step said.

    Attributes:
        part: As in the figures, for instance ``openvino-int8``.
        engine: Its engine.
        precision: Of its linear layers.
        size_bytes: Of its files.
        mean_cosine: To the dense model in float32.
        min_cosine: The same of the worst text.
        judged_on: What the cosines are of.
        overlap: Share of equal neighbours among the nearest, of an embedding model.
        agreement: Share of equal labels, of a classifier.
        max_difference: Largest absolute difference on random tokens.
        texts_per_second: On the recipe's length mix.
        tokens_per_second: The same, in tokens.
        single_ms: Median latency of one text, milliseconds.
        threads: Thread budget.
        speedup: Texts a second over those of the same engine in float32.
        verdict: What the gate said, as ``Verdict.as_dict`` gives it.
        chosen: Whether it is the one to be served.
    """

    part: str
    engine: str
    precision: str
    size_bytes: int | None = None
    mean_cosine: float | None = None
    min_cosine: float | None = None
    judged_on: str = "random tokens"
    overlap: float | None = None
    agreement: float | None = None
    max_difference: float | None = None
    texts_per_second: float | None = None
    tokens_per_second: float | None = None
    single_ms: float | None = None
    threads: int | None = None
    speedup: float | None = None
    verdict: Mapping[str, Any] | None = None
    chosen: bool = False

    @property
    def merits(self) -> str:
        """Speed and accuracy of one candidate, as the end of a sentence."""
        said = ""
        if self.speedup is not None and self.precision != "fp32":
            said += f": {times(self.speedup)} the texts per second of {self.engine} fp32"
        if self.mean_cosine is not None:
            said += ", at" if said else ": "
            least = "" if self.min_cosine is None else f" (least {cosine(self.min_cosine)})"
            said += f" mean cosine {cosine(self.mean_cosine)}{least} on {self.judged_on}"
        if self.agreement is not None:
            said += f", {percent(self.agreement)} of the labels the same"
        return said.replace(":  ", ": ")

    def threshold(self, name: str) -> float | None:
        """What the gate holds one of its figures against, None where it does not."""
        found: float | None = _check(self.verdict, name).get("threshold")
        return found


def candidate_rows(report: BuildReport) -> list[CandidateRow]:
    """All candidates, in the order in which they were compiled; none of a generator's build."""
    if report.recipe.task == "generation":
        return []
    sizes, parities, speeds = (report.figures(n) for n in ("compile", "check", "measure"))
    gate = report.gate
    verdicts = gate.get("verdicts", {})
    parts = dict.fromkeys([*sizes, *parities, *speeds, *(part for part in verdicts if part != MODEL)])
    rows = []
    for part in parts:
        engine, _, precision = part.partition("-")
        parity, speed = parities.get(part) or {}, speeds.get(part) or {}
        verdict = verdicts.get(part)
        judged = {name: _check(verdict, name).get("figure") for name in ("mean_cosine", "min_cosine")}
        if judged["mean_cosine"] is None:
            judged = {name: parity.get(name) for name in judged}
        judged |= {name: _check(verdict, name).get("figure") for name in ("overlap", "agreement")}
        rate = speed.get("sequences_per_second")
        measure = (speeds.get(f"{engine}-fp32") or {}).get("sequences_per_second")
        rows.append(
            CandidateRow(
                part=part,
                engine=engine,
                precision=precision or str(report.recipe.precision),
                size_bytes=(sizes.get(part) or {}).get("bytes"),
                max_difference=parity.get("max_difference"),
                judged_on=_check(verdict, "mean_cosine").get("detail") or "random tokens",
                texts_per_second=rate,
                tokens_per_second=speed.get("tokens_per_second"),
                single_ms=speed.get("single_ms"),
                threads=speed.get("threads"),
                speedup=rate / measure if rate and measure else None,
                verdict=verdict,
                chosen=part == gate.get("chosen"),
                **judged,
            )
        )
    return rows


def _check(verdict: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """The check of that name against the dense model, empty where there is none."""
    by_name = {check["name"]: check for check in (verdict["checks"] if verdict else ())}
    return by_name.get(f"pruning.{name}") or by_name.get(f"accuracy.{name}") or {}


@dataclass(frozen=True)
class Headline:
    """What the build came to.

    Attributes:
        tone: ``good``, ``warn`` or ``bad``.
        word: One or two words.
        sentence: The whole of it.
        causes: What failed, each with its figure, threshold and mend.
    """

    tone: str
    word: str
    sentence: str
    causes: Sequence[Mapping[str, Any]] = field(default=())


def headline(report: BuildReport, rows: Sequence[JudgedRow]) -> Headline:
    """Say what is served, and how fast and how accurate it is."""
    published = report.figures("publish")
    model_failures = _failures(report.gate.get("verdicts", {}).get(MODEL))
    if report.failure:
        last = report.steps[-1] if report.steps else None
        after = " before any step was done"
        if last:
            after = f" {'in' if last.status == 'failed' else 'after'} the step {last.step}"
        causes = [*model_failures, *(f for row in rows for f in _failures(row.verdict))]
        return Headline("bad", "failed", f"The build ended{after}; nothing was published.", causes)
    chosen = next((row for row in rows if row.chosen), None)
    if chosen is None:
        ran = report.steps[-1].step if report.steps else "none"
        if published:
            return Headline("good", "published", f"Version {published['version']} is in the repository.")
        return Headline("warn", "partial", f"Built up to the step {ran}; nothing was published.")
    causes = [*model_failures, *_failures(chosen.verdict)]
    state = f"is served, version {published['version']}" if published else "is chosen, and not published yet"
    sentence = f"{chosen.name} {state}{chosen.merits}."
    if causes:
        return Headline("bad", "forced", f"{sentence} The gate refuses it: it was forced.", causes)
    return Headline("good", "passed" if published else "chosen", sentence)


def _failures(verdict: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The checks of a verdict that failed, with its subject."""
    if verdict is None:
        return []
    checks = (check for check in verdict["checks"] if check["outcome"] == "fail")
    return [{**check, "subject": verdict["subject"]} for check in checks]
