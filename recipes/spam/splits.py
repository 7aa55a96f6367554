"""Parts the mails into train, validation and test, so that no mail has a twin on the other side."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from corpus import Mail

#: Jaccard similarity of word 5-grams from which two texts count as the same mail.
SAME = 0.5
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
_WORDS_IN_SHINGLE = 5


@dataclass(frozen=True)
class Splits:
    """The three parts; no two mails of all parts are near-duplicates, no thread is in two parts."""

    train: tuple[Mail, ...]
    validation: tuple[Mail, ...]
    test: tuple[Mail, ...]


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Return the text's word 5-grams, lower case, digits alike; of a shorter text, its words as one."""
    words = re.findall(r"\w+", re.sub(r"\d+", "0", text.lower()))
    count = max(1, len(words) - _WORDS_IN_SHINGLE + 1)
    return frozenset(tuple(words[i : i + _WORDS_IN_SHINGLE]) for i in range(count))


def drop_duplicates(mails: Iterable[Mail]) -> tuple[list[Mail], int]:
    """Keep the first of mails that say the same (Jaccard similarity of at least :data:`SAME`).

    Exact: an index from shingles to kept mails finds every pair that shares any.

    Returns:
        The kept mails in their order, and how many kept ones were dropped again because a twin has
        the other label.
    """
    kept: list[Mail] = []
    sizes: list[int] = []
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    disputed: set[int] = set()
    for mail in mails:
        grams = shingles(mail.text)
        shared = Counter(index for gram in grams for index in holders.get(gram, ()))
        twins = [i for i, n in shared.items() if n >= SAME * (len(grams) + sizes[i] - n)]
        disputed.update(i for i in twins if kept[i].label != mail.label)
        if twins:
            continue
        for gram in grams:
            holders[gram].append(len(kept))
        kept.append(mail)
        sizes.append(len(grams))
    return [mail for i, mail in enumerate(kept) if i not in disputed], len(disputed)


def split(mails: Sequence[Mail], seed: int) -> Splits:
    """Part the mails by :data:`SHARES`, with each label's share alike in all parts.

    Mails of one thread stay together, since they speak of the same things.
    """
    threads: dict[str, list[Mail]] = defaultdict(list)
    for mail in mails:
        threads[mail.thread or mail.name].append(mail)
    parts: dict[str, list[Mail]] = {name: [] for name in SHARES}
    shuffled = [threads[key] for key in sorted(threads)]
    random.Random(seed).shuffle(shuffled)
    totals = Counter(mail.label for mail in mails)
    held: Counter[tuple[str, int]] = Counter()
    for thread in shuffled:
        label = thread[0].label
        # To where most mails of this label are wanting still.
        name = max(SHARES, key=lambda part: SHARES[part] * totals[label] - held[part, label])
        parts[name] += thread
        held.update((name, mail.label) for mail in thread)
    return Splits(**{name: tuple(part) for name, part in parts.items()})
