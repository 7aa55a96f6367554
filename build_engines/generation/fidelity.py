"""How close an engine comes to the model it was made from: the likelihood of text, and greedy answers.

Text is read by the compiled graph itself, whole sequences at once; answers are made by the engine that will
serve, with its pages of KV cache and its split prompts. So a graph that is right and an engine that makes
something else of it (of sliding windows, say, or biased attention) are told apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engines.generation.answers import Answer, Ids

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]

TOP = 64
"""Likeliest tokens of each place that are compared one by one; all others count as one."""
NEAR_TIE = 0.1
"""Logits that the reference may have between its token and the engine's: rounding decides such a tie."""
NO_TIE = 1000.0
"""In place of these logits, where the reference never thought of the engine's token or one ended before."""


@dataclass(frozen=True)
class Reference:
    """What the model in float32 says.

    Attributes:
        prompts: int64 [tokens] each.
        rivals: For each prompt the likeliest tokens of each greedy step, int32 [steps, rivals].
        scores: Their logits, float32 likewise.
        texts: int64 [tokens] each.
        chosen: Log probability of each token of the texts but the first ones, float32 [places].
        top_ids: Likeliest tokens of each place, int32 [places, top].
        top_log_probs: Their log probabilities, float32 likewise.
    """

    prompts: list[Ids]
    rivals: list[Int32Array]
    scores: list[Float32Array]
    texts: list[Ids]
    chosen: Float32Array
    top_ids: Int32Array
    top_log_probs: Float32Array

    def save(self, path: Path) -> None:
        """Write an ``.npz``."""
        arrays: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, list):
                arrays[name] = np.concatenate(value)
                arrays[f"{name}_lengths"] = np.array([len(part) for part in value])
            else:
                arrays[name] = value
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as saved:
            values: dict[str, Any] = {}
            for name in cls.__dataclass_fields__:
                values[name] = saved[name]
                if f"{name}_lengths" in saved:
                    ends = np.cumsum(saved[f"{name}_lengths"])[:-1]
                    values[name] = np.split(values[name], ends)
        return cls(**values)


@dataclass(frozen=True)
class Likelihood:
    """The texts as an engine reads them.

    Attributes:
        perplexity: Of the texts.
        reference_perplexity: The same by the reference.
        kl: Mean divergence of the engine's distribution from the reference's, in nats; the tokens beyond the
            likeliest count as one, which makes it slightly small.
        top1: Share of places where both find the same token likeliest.
        places: How many were judged.
    """

    perplexity: float
    reference_perplexity: float
    kl: float
    top1: float
    places: int

    @property
    def rise(self) -> float:
        """How much higher the perplexity is, as a share; NaN where the engine gave no numbers."""
        return self.perplexity / self.reference_perplexity - 1

    def figures(self) -> dict[str, Any]:
        """For reports; None in place of what is no finite number."""
        found = {**asdict(self), "perplexity_rise": self.rise}
        return {key: value if math.isfinite(value) else None for key, value in found.items()}


@dataclass(frozen=True)
class Agreement:
    """Greedy answers beside the reference's.

    Attributes:
        prompts: How many were answered.
        same: How many answers are the same to the last token.
        tokens: Tokens up to the first difference of each, or to the end.
        apart: At the first difference of each other answer: the reference's logit for its own token less that
            for the engine's.
        worst: The same, with the prompt's number and the place, the widest apart first.
    """

    prompts: int
    same: int
    tokens: int
    apart: float
    worst: tuple[dict[str, Any], ...]

    def figures(self) -> dict[str, Any]:
        """For reports."""
        return asdict(self)


def read_texts(folder: Path, properties: dict[str, object], reference: Reference) -> Likelihood:
    """Run the compiled graph over the reference's texts.

    Args:
        folder: With ``openvino_model.xml``.
        properties: How to compute; as the engine that serves does.
        reference: The texts, and what the model says of them.
    """
    import openvino as ov

    request = ov.compile_model(folder / "openvino_model.xml", "CPU", properties).create_infer_request()
    totals = np.zeros(3)
    start = 0
    for text in reference.texts:
        count = len(text)
        request.reset_state()
        request.infer(
            {
                "input_ids": text[None],
                "attention_mask": np.ones((1, count), dtype=np.int64),
                "position_ids": np.arange(count, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
        )
        logits = request.get_tensor("logits").data[0, :-1]
        totals += _compare(logits, text[1:], reference, slice(start, start + count - 1))
        start += count - 1
    negative, divergence, same = totals / start
    return Likelihood(
        perplexity=_exp(negative),
        reference_perplexity=_exp(-float(reference.chosen.mean(dtype=np.float64))),
        kl=float(divergence),
        top1=float(same),
        places=start,
    )


def _compare(logits: Float32Array, tokens: Ids, reference: Reference, places: slice) -> NDArray[np.float64]:
    """Sums over the places: negative log likelihood, divergence, equal choices."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    top_ids = reference.top_ids[places]
    theirs = reference.top_log_probs[places].astype(np.float64)
    mine = np.take_along_axis(log_probs, top_ids.astype(np.int64), axis=1)
    their_rest, my_rest = (np.clip(1 - np.exp(part).sum(axis=1), 1e-9, 1) for part in (theirs, mine))
    divergence = (np.exp(theirs) * (theirs - mine)).sum() + (their_rest * np.log(their_rest / my_rest)).sum()
    negative = -log_probs[np.arange(len(tokens)), tokens].sum()
    return np.array([negative, divergence, (log_probs.argmax(axis=1) == top_ids[:, 0]).sum()])


def _exp(value: float) -> float:
    """The exponential; infinite where it leaves the range."""
    return math.exp(value) if value < 700 else math.nan if math.isnan(value) else math.inf


def compare_answers(answers: Sequence[Answer], reference: Reference) -> Agreement:
    """Hold greedy answers against the reference's, each up to where they part."""
    same = tokens = 0
    worst = []
    for number, (answer, rivals, scores) in enumerate(
        zip(answers, reference.rivals, reference.scores, strict=True)
    ):
        expected = rivals[:, 0].tolist()
        parts = next(
            (place for place, (a, b) in enumerate(zip(answer.tokens, expected, strict=False)) if a != b), None
        )
        if parts is None and len(answer.tokens) == len(expected):
            same += 1
            tokens += len(expected)
            continue
        place = min(len(answer.tokens), len(expected)) if parts is None else parts
        tokens += place
        apart = NO_TIE
        if parts is not None and answer.tokens[place] in rivals[place]:
            at = rivals[place].tolist().index(answer.tokens[place])
            apart = float(scores[place, 0] - scores[place, at])
        worst.append({"prompt": number, "place": place, "apart": apart})
    worst.sort(key=lambda row: -row["apart"])
    return Agreement(len(answers), same, tokens, worst[0]["apart"] if worst else 0.0, tuple(worst[:3]))
