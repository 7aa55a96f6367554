"""Step 8: every candidate is judged, and the fastest that passes is served."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from build_engines.context import StepOutcome
from build_engines.gate.choose import refusal
from build_engines.gate.wording import describe_failure
from build_engines.generation.context import GenerationContext, GeneratorCandidate
from build_engines.generation.judge import judge_generator


class GateStep:
    """Judges all candidates; refuses to go on if none passes."""

    name = "gate"

    def run(self, context: GenerationContext) -> StepOutcome:
        """Judge, choose."""
        candidates = list(context.candidates.values())
        for candidate in candidates:
            candidate.verdict = judge_generator(candidate, context.recipe)
        verdicts = {c.part: c.verdict for c in candidates if c.verdict is not None}
        figures: dict[str, Any] = {
            "chosen": None,
            "verdicts": {part: verdict.as_dict() for part, verdict in verdicts.items()},
        }
        passed = [candidate for candidate in candidates if verdicts[candidate.part].passed]
        refused = [verdict for verdict in verdicts.values() if not verdict.passed]
        notes = [f"not served: {v.subject}: {describe_failure(v.failures[0])}" for v in refused]
        if not passed:
            error = refusal(refused, figures)
            if not context.force:
                raise error
            context.forced = True
            what = error.what.removeprefix("refused: ")
            notes = [f"FORCED: published although the gate refuses it. {what}"]
        rivals = passed or candidates
        context.chosen = fastest(rivals)
        figures["chosen"] = context.chosen.part
        notes.insert(0, _reason(context.chosen, rivals))
        return StepOutcome(figures=figures, notes=tuple(notes))


def fastest(candidates: Iterable[GeneratorCandidate]) -> GeneratorCandidate:
    """The one with the most tokens a second where most streams were measured."""
    return max(candidates, key=lambda candidate: max(_rates(candidate).values(), default=0.0))


def _rates(candidate: GeneratorCandidate) -> dict[str, float]:
    """Tokens a second by streams, empty where nothing was measured."""
    rates: dict[str, float] = candidate.speed.get("tokens_per_second", {})
    return rates


def _reason(chosen: GeneratorCandidate, rivals: list[GeneratorCandidate]) -> str:
    """Say what is served, and why."""
    mine = _rates(chosen)
    others = []
    for rival in rivals:
        if rival is not chosen and mine:
            theirs = _rates(rival)
            ratios = ", ".join(f"{mine[n] / theirs[n]:.2f} times at {n}" for n in mine)
            others.append(f"{ratios} of {rival.part}")
    if not others:
        return f"{chosen.part} is served"
    return f"{chosen.part} chosen, by tokens a second in parallel streams: {'; '.join(others)}"
