"""The calibration sequences divided: to fit ranges, to judge them, and to choose layers by.

Ranges that were fitted on running text overflow on the shortest texts: a lone word between two special
tokens gives activations that no sentence gives. So each part also gets *probes*, sequences of a few
random words between the first and last token of a real one. They cost few tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]

PROBE_SHARE = 1.0
LONGEST_PROBE = 4
MAX_VALIDATION = 200
FEW_SEQUENCES = 32
# One token above this share of all text is not language: most likely the one for unknown words.
_SUSPICIOUS_SHARE = 0.15


@dataclass(frozen=True)
class Slices:
    """Sequences by purpose; none is in two of them.

    Attributes:
        fit: Histograms are made of these.
        judge: Settings of each layer are chosen on these.
        validation: Layers are chosen on these.
        texts: How many of the validation sequences, from the first on, are text and no probes.
        notes: What is odd about the text.
    """

    fit: list[Int32Array]
    judge: list[Int32Array]
    validation: list[Int32Array]
    texts: int
    notes: tuple[str, ...]


def divide(sequences: Sequence[Int32Array], asked: int, vocab_size: int, seed: int) -> Slices:
    """Divide 60 : 20 : 20, validation at most 200, and add probes to each part.

    Args:
        sequences: int32 [n] each, not empty.
        asked: Sequences that the recipe wants; fewer are noted.
        vocab_size: Ids are below it.
        seed: Of the order and the probes.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(sequences))
    held = min(MAX_VALIDATION, max(1, len(order) // 5))
    cuts = [held, held + max(1, (len(order) - held) // 4)]
    parts = [[sequences[i] for i in part] for part in np.split(order, cuts)]
    # With one or two sequences a part may be empty: then it shares the others' text.
    validation, judge, fit = (part or list(sequences) for part in parts)
    texts = len(validation)
    fit, judge, validation = (
        [*part, *_probes(part, vocab_size, random)] for part in (fit, judge, validation)
    )
    return Slices(fit, judge, validation, texts, tuple(_notes(sequences, asked)))


def _probes(part: list[Int32Array], vocab_size: int, random: np.random.Generator) -> list[Int32Array]:
    """Short sequences of random words, half of them seen in the text and half from the whole vocabulary."""
    words = np.unique(np.concatenate([ids[1:-1] if len(ids) > 2 else ids for ids in part]))
    found = []
    for number in range(max(8, int(len(part) * PROBE_SHARE))):
        like = part[int(random.integers(len(part)))]
        count = int(random.integers(1, LONGEST_PROBE + 1))
        middle = random.choice(words, count) if number % 2 else random.integers(0, vocab_size, count)
        found.append(np.concatenate([like[:1], middle, like[-1:]]).astype(np.int32))
    return found


def _notes(sequences: Sequence[Int32Array], asked: int) -> list[str]:
    """What a reader should know of the text."""
    notes = []
    if len(sequences) < FEW_SEQUENCES:
        notes.append(
            f"only {len(sequences)} calibration sequences: ranges and the choice of layers are guesses; "
            "give a few hundred texts"
        )
    elif len(sequences) < asked:
        notes.append(f"{len(sequences)} calibration sequences, of {asked} asked for")
    inner = np.concatenate([ids[1:-1] for ids in sequences])
    if inner.size >= 100:
        ids, counts = np.unique(inner, return_counts=True)
        share = counts.max() / inner.size
        if share > _SUSPICIOUS_SHARE:
            notes.append(
                f"token {int(ids[counts.argmax()])} makes up {share:.0%} of the calibration text: if it "
                "stands for unknown words, the tokenizer does not know the text's language or script"
            )
    return notes
