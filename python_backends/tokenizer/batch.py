"""Texts of many requests become token ids in one call of the Rust tokenizer. Knows no Triton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..packing import FILLER, Int32Array
from ..settings import TokenizerSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REASONS = ("shape", "no_texts", "invalid_utf8", "too_large", "no_tokens", "tokenizer")
"""Why a request is rejected; label values of the metric."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A request that cannot be answered.

    Attributes:
        reason: One of :data:`REASONS`.
        message: What its sender should know.
    """

    reason: str
    message: str


@dataclass(slots=True)
class TokenizedBatch:
    """Answers of one execution.

    Attributes:
        results: For each request INT32 [b, n], or why it was rejected.
        tokens: Tokens in all results, without filler.
        truncated: Texts that were cut.
    """

    results: list[Int32Array | Rejection] = field(default_factory=list)
    tokens: int = 0
    truncated: int = 0


class BatchTokenizer:
    """Tokenizes the texts of many requests together.

    Args:
        tokenizer_file: A ``tokenizer.json``. Truncation and padding in it are replaced.
        settings: Limits to apply.

    Raises:
        ValueError: ``max_length`` leaves no room for text besides the special tokens.
    """

    def __init__(self, tokenizer_file: Path, settings: TokenizerSettings) -> None:
        """Load the tokenizer."""
        from tokenizers import Tokenizer

        self._tokenizer: Tokenizer = Tokenizer.from_file(str(tokenizer_file))
        special = self._tokenizer.num_special_tokens_to_add(False)
        if settings.max_length <= special:
            raise ValueError(
                f"max_length {settings.max_length} leaves no room for text: {special} tokens of each "
                "sequence are special tokens"
            )
        # One token more than allowed comes through, which tells a cut text from one that just
        # fits. encoding.overflowing would tell it too, by copying all that was cut off.
        self._tokenizer.enable_truncation(settings.max_length + 1)
        self._tokenizer.no_padding()
        self._settings = settings

    def tokenize(self, requests: Sequence[NDArray[np.object_]]) -> TokenizedBatch:
        """Tokenize all requests with one call of the tokenizer.

        Args:
            requests: For each request its texts, object array [b, 1] of UTF-8 ``bytes``.

        Returns:
            Results in the order of the requests. A rejected request does not affect the others.
        """
        try:
            return self._tokenize(requests)
        except Exception:
            # A tokenizer without an unknown token fails on some texts: find whose they are.
            return self._tokenize_singly(requests)

    def _tokenize(self, requests: Sequence[NDArray[np.object_]]) -> TokenizedBatch:
        decoded = [self._decode(request) for request in requests]
        texts = [text for entry in decoded if not isinstance(entry, Rejection) for text in entry]
        encodings = iter(self._tokenizer.encode_batch_fast(texts) if texts else [])
        batch = TokenizedBatch()
        for entry in decoded:
            if isinstance(entry, Rejection):
                batch.results.append(entry)
            else:
                batch.results.append(self._matrix([next(encodings) for _ in entry], batch))
        return batch

    def _tokenize_singly(self, requests: Sequence[NDArray[np.object_]]) -> TokenizedBatch:
        batch = TokenizedBatch()
        for request in requests:
            try:
                one = self._tokenize([request])
            except Exception as error:
                message = f"the tokenizer cannot encode this request: {error}; change or drop the text"
                batch.results.append(Rejection("tokenizer", message))
            else:
                batch.results += one.results
                batch.tokens += one.tokens
                batch.truncated += one.truncated
        return batch

    def _decode(self, request: NDArray[np.object_]) -> list[str] | Rejection:
        """Check one request and decode its texts."""
        if request.ndim != 2 or request.shape[1] != 1:
            shape = list(request.shape)
            return Rejection("shape", f"text has shape {shape}; send [b, 1], one text in each row")
        raw = request[:, 0].tolist()
        if not raw:
            return Rejection("no_texts", "the request holds no text; send at least one")
        limit = self._settings.max_text_bytes
        texts = []
        for index, text in enumerate(raw):
            if len(text) > limit:
                return Rejection(
                    "too_large",
                    f"text at index {index} has {len(text)} bytes, {limit} are allowed; "
                    "send a shorter text, or raise max_text_bytes",
                )
            try:
                texts.append(text.decode())
            except UnicodeDecodeError as error:
                return Rejection(
                    "invalid_utf8",
                    f"text at index {index} is not valid UTF-8 (byte {error.start}: {error.reason}); "
                    "encode it as UTF-8",
                )
        return texts

    def _matrix(self, encodings: list[Any], batch: TokenizedBatch) -> Int32Array | Rejection:
        """Lay the texts of one request into a rectangle and count them in ``batch``."""
        limit = self._settings.max_length
        rows: list[list[int]] = []
        truncated = 0
        for index, encoding in enumerate(encodings):
            ids: list[int] = encoding.ids
            if len(ids) > limit:
                ids = _without_last_content_token(ids, encoding.special_tokens_mask)
                truncated += 1
            if not ids:
                message = f"text at index {index} gives no token; send a text with visible characters"
                return Rejection("no_tokens", message)
            rows.append(ids)
        batch.truncated += truncated
        if len(rows) == 1:
            batch.tokens += len(rows[0])
            return np.array(rows, np.int32)
        lengths = [len(ids) for ids in rows]
        batch.tokens += sum(lengths)
        matrix = np.full((len(rows), max(lengths)), FILLER, np.int32)
        for row, ids, length in zip(matrix, rows, lengths, strict=True):
            row[:length] = ids
        return matrix


def count_tokens(result: Int32Array) -> Int32Array:
    """Tokens of each text: INT32 [b, n] with filler to INT32 [b, 1]."""
    counts: Int32Array = (result != FILLER).sum(axis=1, dtype=np.int32, keepdims=True)
    return counts


def _without_last_content_token(ids: list[int], special: list[int]) -> list[int]:
    """Drop the token before the closing special tokens.

    Truncation keeps a prefix of the text's tokens between the special ones, so a text cut to n
    tokens is the text cut to n + 1 without its last content token.
    """
    position = len(special) - 1
    while special[position]:
        position -= 1
    return ids[:position] + ids[position + 1 :]
