"""Is the winner better? Fresh servers, other texts, default and winner in turns, and an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from loadtest.tune.bench import Bench
from loadtest.tune.records import Pair, Verdict
from tritonforge.recipe import Recipe

_CONFIDENCE = 0.95
_OTHER_TEXTS = 1000  # added to the seed: texts that the search has not seen


def compare(
    bench: Bench,
    winner: Recipe,
    rounds: int,
    seed: int,
    progress: Callable[[str], None] = lambda message: None,
) -> Verdict:
    """Measure default and winner in the order A B B A A B B A, each time on a new server.

    Args:
        bench: Serves and measures.
        winner: What the search found.
        rounds: Pairs, two at least.
        seed: Of the search; the texts are others, and the same for both of a pair.
        progress: Called when a server starts.

    Raises:
        TritonForgeError: One of them cannot be served.
    """
    pairs = []
    for number in range(rounds):
        winner_first = number % 2 == 1
        scores = {}
        for is_winner in (winner_first, not winner_first):
            which = "winner" if is_winner else "default"
            progress(f"fresh run {number + 1} of {rounds}: the {which}")
            recipe = winner if is_winner else bench.model.recipe
            looks, _ = bench.measure(recipe, seed + _OTHER_TEXTS + number, None)
            scores[is_winner] = bench.goal.score(looks)
        pairs.append(
            Pair(
                default=scores[False].value,
                winner=scores[True].value,
                default_violation=scores[False].violation,
                winner_violation=scores[True].violation,
                winner_first=winner_first,
            )
        )
    return judge(pairs)


def judge(pairs: Sequence[Pair]) -> Verdict:
    """Say what pairs of measurements show.

    The interval is Student's t on the logarithms of the ratios: the two of a pair share most of the noise.

    Args:
        pairs: Two at least.
    """
    ratio, low, high = interval([pair.winner / pair.default for pair in pairs])
    missed = sum(pair.winner_violation > 0 for pair in pairs)
    default_missed = sum(pair.default_violation > 0 for pair in pairs)
    if missed:
        better, why = False, f"p99 exceeded the SLO in {missed} of {len(pairs)} fresh runs"
    elif default_missed == len(pairs):
        better, why = True, "it meets the SLO in all fresh runs, the default in none"
    elif low > 1.0:
        better, why = True, f"{(ratio - 1) * 100:.1f} % better than the default, beyond doubt of noise"
    elif high < 1.0:
        better, why = False, "it is worse than the default: the search was misled by noise"
    else:
        better, why = False, "the interval includes 1: no gain is shown"
    return Verdict(pairs=list(pairs), ratio=ratio, low=low, high=high, better=better, why=why)


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of ratios, with its 95 % confidence interval (Student's t on the logarithms)."""
    from scipy.stats import t

    logs = [math.log(ratio) for ratio in ratios]
    mean = sum(logs) / len(logs)
    variance = sum((log - mean) ** 2 for log in logs) / (len(logs) - 1)
    half = float(t.ppf((1 + _CONFIDENCE) / 2, len(logs) - 1)) * math.sqrt(variance / len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)
