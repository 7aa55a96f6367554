"""The classifier: the lower half of MiniLM with a head, trained on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from corpus import LABELS
from numpy.typing import NDArray
from transformers import AutoTokenizer, BertForSequenceClassification, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging


@dataclass(frozen=True)
class Settings:
    """How the model is trained. The number of epochs was chosen on the validation part.

    Attributes:
        layers: Encoder layers kept of the base model, from below.
        max_length: Tokens of a mail that are read, special tokens included.
        epochs: Passes over the training part.
        batch_size: Mails in one step.
        learning_rate: Highest rate of AdamW; it rises over the first tenth and falls to 0.
        weight_decay: AdamW's.
        window_share: Share of the mails that are shown as a short window from anywhere in their
            text, so that the model also learns texts without a subject and of one sentence.
        window: Least and most tokens of such a window.
        seed: Of everything random.
    """

    layers: int = 3
    max_length: int = 128
    epochs: int = 2
    batch_size: int = 16
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    window_share: float = 0.3
    window: tuple[int, int] = (8, 48)
    seed: int = 0


Ids = list[int]
Model = BertForSequenceClassification


def load_base(
    folder: Path, settings: Settings
) -> tuple[BertForSequenceClassification, PreTrainedTokenizerBase]:
    """Load the base model's lower layers with a fresh head, and its tokenizer.

    The embeddings are frozen: they are two thirds of the weights, and a few thousand mails hold few
    of the words.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library is untyped
    # What it would warn of is meant: a new head, and no upper layers.
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # the library is untyped
    torch.manual_seed(settings.seed)
    model = Model.from_pretrained(
        folder,
        num_hidden_layers=settings.layers,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        dtype=torch.float32,
    )
    model.bert.embeddings.requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=settings.max_length)
    return model, tokenizer


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[Ids]:
    """Token ids of each text, special tokens included, cut at ``max_length``."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length, padding=False)
    ids: list[Ids] = encoded["input_ids"]
    return ids


def train(
    model: Model,
    ids: Sequence[Ids],
    labels: Sequence[int],
    settings: Settings,
    progress: Callable[[int, int, float], None],
) -> None:
    """Train ``model`` in place.

    Args:
        model: From :func:`load_base`.
        ids: Token ids of each mail.
        labels: Index of each mail's label.
        settings: Rates, sizes and the seed.
        progress: Called after each step with steps done, steps in all, and the smoothed loss.
    """
    random = np.random.default_rng(settings.seed)
    torch.manual_seed(settings.seed)
    steps = settings.epochs * -(-len(ids) // settings.batch_size)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps + 1, pct_start=0.1, anneal_strategy="linear"
    )
    model.train()
    done, smoothed = 0, 0.0
    for _ in range(settings.epochs):
        shown = [_show(mail, settings, random) for mail in ids]
        for batch in _batches(shown, settings.batch_size, random):
            output = model(**pad([shown[i] for i in batch]), labels=torch.tensor([labels[i] for i in batch]))
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            loss = float(output.loss.detach())
            smoothed = loss if done == 0 else 0.95 * smoothed + 0.05 * loss
            done += 1
            progress(done, steps, smoothed)
    model.train(False)


def predict(
    model: BertForSequenceClassification, ids: Sequence[Ids], batch_size: int = 32
) -> NDArray[np.float32]:
    """Probabilities of the labels, float32 [texts, labels], in the order of ``ids``."""
    model.train(False)
    scores = np.empty((len(ids), len(LABELS)), np.float32)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            logits = model(**pad([ids[i] for i in batch])).logits
            scores[batch] = torch.softmax(logits, dim=-1).numpy()
    return scores


def pad(ids: Sequence[Ids]) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``attention_mask``, int64 [texts, longest]; BERT's padding id is 0."""
    longest = max(len(mail) for mail in ids)
    input_ids = torch.zeros(len(ids), longest, dtype=torch.int64)
    mask = torch.zeros_like(input_ids)
    for row, mail in enumerate(ids):
        input_ids[row, : len(mail)] = torch.tensor(mail)
        mask[row, : len(mail)] = 1
    return {"input_ids": input_ids, "attention_mask": mask}


def _show(mail: Ids, settings: Settings, random: np.random.Generator) -> Ids:
    """The mail, or now and then a window of it between its special tokens."""
    length = int(random.integers(*settings.window, endpoint=True))
    if random.random() >= settings.window_share or len(mail) - 2 <= length:
        return mail
    start = int(random.integers(1, len(mail) - length))
    return [mail[0], *mail[start : start + length], mail[-1]]


def _batches(ids: Sequence[Ids], size: int, random: np.random.Generator) -> Iterator[list[int]]:
    """Indices in batches of like lengths, so that little is padding, the batches in random order."""
    # Ties are broken at random, so that batches differ between epochs.
    order = np.lexsort([random.random(len(ids)), np.array([len(mail) for mail in ids])])
    batches = [order[start : start + size].tolist() for start in range(0, len(order), size)]
    for index in random.permutation(len(batches)):
        yield batches[index]
