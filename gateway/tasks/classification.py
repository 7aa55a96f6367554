"""Classification: a label and its score for each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.tasks.call import Call
from gateway.tasks.rows import Rows, RowService


@dataclass(frozen=True, slots=True)
class Label:
    """What a text was found to be.

    Attributes:
        label: The likeliest label.
        score: Its score, 0 to 1.
        scores: Of every label.
    """

    label: str
    score: float
    scores: dict[str, float]


class ClassificationService(RowService):
    """Labels of texts."""

    task = "classification"
    scope = "classify"
    output = "scores"

    async def classify(
        self, call: Call, name: str | None, texts: Sequence[str], field: str = "text"
    ) -> tuple[Rows, list[Label]]:
        """Classify texts.

        Raises:
            ApiError: As for :meth:`RowService.rows`.
        """
        rows = await self.rows(call, name, texts, field)
        labels = []
        for row in rows.rows:
            names = rows.model.labels or tuple(map(str, range(len(row.values))))
            best = int(row.values.argmax())
            scores = dict(zip(names, row.values.tolist(), strict=True))
            labels.append(Label(names[best], scores[names[best]], scores))
        return rows, labels
