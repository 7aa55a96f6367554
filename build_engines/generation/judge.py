"""Holds what was found of a generator against the recipe's thresholds."""

from __future__ import annotations

from typing import Any

from build_engines.gate.verdict import GateCheck, Verdict
from build_engines.generation.context import GeneratorCandidate
from build_engines.generation.fidelity import NEAR_TIE
from tritonforge.recipe import GeneratorPrecision, Recipe

RISES: dict[GeneratorPrecision, float] = {
    "fp32": 0.02,
    "fp16": 0.02,
    "bf16": 0.02,
    "int8-weights": 0.05,
    "int4-weights": 0.1,
}
"""Most that the perplexity may rise where the recipe leaves it to us. In int4 SmolLM2-135M loses 0.16, and
finds another token likeliest at four places of ten: that is another model."""
_OTHER_MODEL = (
    "the engine does not compute this model's attention (windows, biases or caps in it): use another "
    "model, or engine tensorrt-llm"
)
_MENDS: dict[GeneratorPrecision, str] = {
    "fp32": _OTHER_MODEL,
    "fp16": f"try precision fp32, if activations leave the range of float16; else {_OTHER_MODEL}",
    "bf16": "try precision fp16",
    "int8-weights": "try precision fp16",
    "int4-weights": "try precision int8-weights, or allow more with gate.perplexity_rise",
}


def judge_generator(candidate: GeneratorCandidate, recipe: Recipe) -> Verdict:
    """All checks of one candidate."""
    if not candidate.checked:
        skipped = GateCheck("perplexity", "skipped", detail=f"{candidate.engine} was not run at build")
        return Verdict(candidate.part, (skipped,))
    return Verdict(candidate.part, (_perplexity(candidate, recipe), _answers(candidate, recipe)))


def _perplexity(candidate: GeneratorCandidate, recipe: Recipe) -> GateCheck:
    """The rise over float32."""
    found, allowed = candidate.checked, recipe.gate.perplexity_rise
    limit = RISES[candidate.precision] if allowed == "auto" else allowed
    rise: float | None = found["perplexity_rise"]
    if rise is None:
        what = "the engine gives no finite numbers"
    else:
        what = (
            f"rise over the model in float32, {found['reference_perplexity']:.3f} to "
            f"{found['perplexity']:.3f}; same likeliest token at {found['top1']:.1%}"
        )
    return GateCheck(
        "perplexity",
        "pass" if rise is not None and rise <= limit else "fail",
        rise,
        limit,
        f"{what}, on {found['places']} tokens of {found['source']}",
        mend=_MENDS[candidate.precision],
    )


def _answers(candidate: GeneratorCandidate, recipe: Recipe) -> GateCheck:
    """Greedy answers: with exact arithmetic they may part from float32's at near ties only."""
    found: dict[str, Any] = candidate.checked["answers"]
    detail = (
        f"{found['same']} of {found['prompts']} greedy answers are the same as in float32, and "
        f"{found['tokens']} tokens before the others part; figure: logits between both tokens there"
    )
    generation = recipe.generation
    rounds = candidate.precision not in ("fp32", "fp16") or generation.compute != "f32"
    if rounds or generation.kv_cache_precision == "u8":
        return GateCheck(
            "answers", "skipped", found["apart"], detail=f"{detail}; not promised in this precision"
        )
    return GateCheck(
        "answers",
        "pass" if found["apart"] <= NEAR_TIE else "fail",
        found["apart"],
        NEAR_TIE,
        detail,
        tuple(found["worst"]),
        _MENDS[candidate.precision],
    )
