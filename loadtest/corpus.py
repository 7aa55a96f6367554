"""Texts to send: real English where a corpus is installed, in the lengths that traffic has."""

from __future__ import annotations

import importlib.util
import random
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

from tritonforge.errors import UsageError

#: English words for each token of a BERT word-piece vocabulary, roughly.
WORDS_PER_TOKEN = 0.75

#: The mix that recipes have by default: mostly queries, some passages.
DEFAULT_MIX = "8:0.3,24:0.4,64:0.2,192:0.1"

#: The same for prompts: questions, and some with a text to work on.
PROMPT_MIX = "8:0.3,24:0.3,64:0.2,192:0.1,384:0.1"


@dataclass(frozen=True)
class LengthMix:
    """Which lengths texts have, and how often.

    Attributes:
        tokens: Lengths, in tokens. Texts are cut by words, so the lengths are approximate.
        weights: How often each occurs, in any unit.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> LengthMix:
        """Read ``tokens:weight,tokens:weight,…``; a weight that is left out is 1.

        Raises:
            ValueError: The text has another form, or a number is not positive.
        """
        pairs = [share.partition(":") for share in text.split(",")]
        try:
            tokens = tuple(int(length) for length, _, _ in pairs)
            weights = tuple(float(weight or 1) for _, _, weight in pairs)
        except ValueError:
            raise ValueError(f"not a length mix: {text!r}; write it like {DEFAULT_MIX}") from None
        if min(tokens) < 1 or min(weights) <= 0:
            raise ValueError(f"lengths and weights must be positive: {text!r}")
        return cls(tokens, weights)


def parse_mix(text: str) -> LengthMix:
    """Read a length mix from a command line.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return LengthMix.parse(text)
    except ValueError as error:
        raise UsageError(str(error), where="--length-mix") from error


def read_texts(file: Path) -> list[str]:
    """Read texts to send, one a line; empty lines are left out.

    Raises:
        UsageError: The file cannot be read, is no UTF-8, or holds no text.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {error}", where=str(file), mend="give a UTF-8 file") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UsageError("holds no text", where=str(file), mend="write one text a line")
    return texts


def make_texts(count: int, mix: LengthMix, seed: int = 0) -> list[str]:
    """Cut ``count`` texts out of the corpus, in random order of length.

    Args:
        count: How many texts.
        mix: Their lengths.
        seed: The same seed gives the same texts on every machine that has the same corpus.

    Returns:
        The texts; each is a run of consecutive words.
    """
    rng = random.Random(seed)
    words = _words()
    lengths = rng.choices(mix.tokens, cum_weights=list(accumulate(mix.weights)), k=count)
    texts = []
    for length in lengths:
        size = min(max(1, round(length * WORDS_PER_TOKEN)), len(words))
        start = rng.randrange(len(words) - size + 1)
        texts.append(" ".join(words[start : start + size]))
    return texts


def source() -> str:
    """Return what the texts are cut from, for a report."""
    return f"Lee background corpus ({path.name})" if (path := _lee_corpus()) else "generated sentences"


def _lee_corpus() -> Path | None:
    # find_spec does not run gensim, whose import takes seconds.
    spec = importlib.util.find_spec("gensim")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "test" / "test_data" / "lee_background.cor"
    return path if path.is_file() else None


@cache
def _words() -> list[str]:
    path = _lee_corpus()
    return path.read_text(encoding="utf-8").split() if path else _generated_words()


def _generated_words(sentences: int = 5000) -> list[str]:
    """Write sentences of a small grammar: words that a tokenizer knows, in lengths that vary."""
    rng = random.Random(20240229)
    subjects = "customer engineer teacher minister driver doctor farmer reporter captain student"
    verbs = "reported found moved explained repaired lost ordered described measured refused"
    objects = "parcel engine contract bridge password harvest letter account network medicine"
    adjectives = "old broken expensive quiet unknown heavy new distant careful red"
    places = ["in the city", "near the river", "after the meeting", "at the border", "before winter"]
    words: list[str] = []
    for _ in range(sentences):
        extra = rng.sample(adjectives.split(), rng.randrange(3))
        subject, verb, thing = (rng.choice(kind.split()) for kind in (subjects, verbs, objects))
        sentence = ["The", *extra, subject, verb, "the", thing]
        if rng.random() < 0.6:
            sentence += rng.choice(places).split()
        words += [*sentence[:-1], f"{sentence[-1]}."]
    return words
