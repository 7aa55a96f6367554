"""What noise does to a search, and how it is taken out: the default is measured again and again.

A machine that others use, or that gets warm, is faster now than in a minute. Figures of different minutes are
therefore never compared; each is divided by what the default would have come to at that moment, by
interpolation between its measurements before and after.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Anchor:
    """A measurement of the default.

    Attributes:
        at: When, in seconds of any clock.
        value: What it came to.
    """

    at: float
    value: float


def expected(anchors: Sequence[Anchor], at: float) -> float:
    """What the default would have come to at a moment: between its neighbours, linear in the logarithm.

    Args:
        anchors: In order of time, one at least.
        at: On the same clock; before the first or after the last, that one counts.
    """
    after = bisect_right([anchor.at for anchor in anchors], at)
    if after == 0 or after == len(anchors):
        return anchors[min(after, len(anchors) - 1)].value
    left, right = anchors[after - 1], anchors[after]
    share = (at - left.at) / (right.at - left.at)
    return math.exp((1 - share) * math.log(left.value) + share * math.log(right.value))


def spread(anchors: Sequence[Anchor]) -> float | None:
    """Typical difference of two neighbouring anchors, as a share; None of fewer than two.

    Root mean square of the differences of logarithms: what a ratio of one trial is uncertain by.
    """
    logs = [math.log(anchor.value) for anchor in anchors]
    steps = [after - before for before, after in pairwise(logs)]
    return math.sqrt(sum(step * step for step in steps) / len(steps)) if steps else None
