"""Tokens of one sequence become text, piece by piece. Knows no Triton.

The pieces join to exactly what the tokenizer makes of all tokens at once, special tokens skipped: a character
is sent when it is whole, and text that may be the beginning of a stop string when it turned out not to be.
``clean_up_tokenization_spaces``, a setting of transformers that a ``tokenizer.json`` does not hold, is not
applied.
"""

from __future__ import annotations

import json
import re
from codecs import utf_8_decode
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class _Decoder(Protocol):
    """Text of a growing row of tokens."""

    def feed(self, token_ids: Sequence[int]) -> str:
        """Text that is certain now and was not before."""
        ...

    def flush(self) -> str:
        """The rest, once no token follows."""
        ...


class Vocabulary:
    """What each token of a model stands for; made once, used by all sequences.

    Args:
        tokenizer: The model's. Must not be changed afterwards.

    Raises:
        ValueError: The tokenizer's decoder mixes whole bytes with steps that only work on characters.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Choose the way that fits the tokenizer's decoder."""
        kinds = _decoder_kinds(tokenizer)
        tokens = _visible_tokens(tokenizer)
        self.decoder: Callable[[], _Decoder]
        """Makes a decoder for one more sequence."""
        if kinds == ["ByteLevel"]:
            table = [_token_bytes(token) for token in tokens]
            self.decoder = lambda: _ByteDecoder(table)
        elif "ByteLevel" in kinds:
            raise ValueError(
                f"the tokenizer's decoder is a row of {', '.join(kinds)}; ByteLevel must be alone"
            )
        else:
            visible = [token is not None for token in tokens]
            bytelike: frozenset[int] = frozenset()
            if "ByteFallback" in kinds:
                matches = (BYTE_TOKEN.fullmatch(token or "") for token in tokens)
                bytelike = frozenset(index for index, match in enumerate(matches) if match)
            self.decoder = lambda: _WindowDecoder(tokenizer, visible, bytelike)


class TextStream:
    """The text of one sequence, up to the first stop string.

    Of several stop strings the one that begins first ends the text, and is not part of it; of two that begin
    at the same place the shorter is complete first. Where one is complete while another that began before
    it may still become so, the stream waits for the text that decides.

    Args:
        vocabulary: Of the model.
        stop: Strings that end the text, none of them empty.

    Attributes:
        stopped: A stop string ended the text; later tokens are ignored.
        taken: Tokens of the last push that belong to the answer: all, or those up to the one that ended it.
            That one is counted too, as OpenAI and vLLM do: it was generated, though its text is not sent.
    """

    __slots__ = ("_decoder", "_held", "_stop", "stopped", "taken")

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str] = ()) -> None:
        """Begin with no text."""
        self.stopped = False
        self.taken = 0
        self._decoder = vocabulary.decoder()
        self._stop = tuple(stop)
        self._held = ""

    def push(self, token_ids: Sequence[int]) -> str:
        """Take the next tokens.

        Args:
            token_ids: In order, any number of them. Leave out an end-of-sequence token that is not marked
                as special in the tokenizer, or its text is part of the answer.

        Returns:
            Text that can be sent now. How the tokens are spread over calls does not change the whole.
        """
        if self.stopped:
            self.taken = 0
            return ""
        self.taken = len(token_ids)
        if not self._stop:
            return self._decoder.feed(token_ids)
        pieces = []
        for count, token_id in enumerate(token_ids, 1):
            text = self._decoder.feed((token_id,))
            if text:
                pieces.append(self._release(text, last=False))
                if self.stopped:
                    self.taken = count
                    break
        return "".join(pieces)

    def finish(self) -> str:
        """Give what was held back, once no token follows; it may turn out to hold a stop string."""
        if self.stopped:
            return ""
        text = self._decoder.flush()
        return self._release(text, last=True) if self._stop else text

    def _release(self, text: str, *, last: bool) -> str:
        text = self._held + text
        found = waiting = len(text)
        for stop in self._stop:
            at = text.find(stop)
            if at >= 0:
                found = min(found, at)
            elif not last:
                waiting = min(waiting, _beginning(text, stop))
        if found < len(text) and found <= waiting:
            self.stopped = True
            self._held = ""
            return text[:found]
        self._held = text[waiting:]
        return text[:waiting]


class _ByteDecoder:
    """Byte-level BPE: each token is a few bytes, in any language a part of a character or several."""

    __slots__ = ("_rest", "_table")

    def __init__(self, table: list[bytes]) -> None:
        self._table = table
        self._rest = b""

    def feed(self, token_ids: Sequence[int]) -> str:
        table = self._table
        size = len(table)
        # An id outside the vocabulary (models often have room for more) has no text, as in the tokenizer.
        data = self._rest + b"".join([table[index] for index in token_ids if 0 <= index < size])
        text, used = utf_8_decode(data, "replace", False)
        self._rest = data[used:]
        return text

    def flush(self) -> str:
        return self._rest.decode("utf-8", "replace")


class _WindowDecoder:
    """Every other tokenizer: what a token adds to the one before it, which decides about spaces.

    Bytes of characters that are not in the vocabulary are a run of tokens of their own. It is held until
    it ends, since a single wrong byte makes the tokenizer replace all of the run.
    """

    __slots__ = ("_before", "_bytelike", "_run", "_tokenizer", "_visible")

    def __init__(self, tokenizer: Tokenizer, visible: list[bool], bytelike: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._visible = visible
        self._bytelike = bytelike
        self._before: list[int] = []
        self._run: list[int] = []

    def feed(self, token_ids: Sequence[int]) -> str:
        visible = self._visible
        pieces = []
        for index in token_ids:
            if not 0 <= index < len(visible) or not visible[index]:
                continue
            self._run.append(index)
            if index not in self._bytelike:
                pieces.append(self.flush())
                self._before = [index]
        return "".join(pieces)

    def flush(self) -> str:
        run, self._run = self._run, []
        if not run:
            return ""
        decode = self._tokenizer.decode
        if not self._before:
            return decode(run)
        return decode(self._before + run)[len(decode(self._before)) :]


def _beginning(text: str, stop: str) -> int:
    """Where the end of a text could be the beginning of a stop string; the text's length if nowhere."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return at if at >= 0 else len(text)


def _decoder_kinds(tokenizer: Tokenizer) -> list[str]:
    """Kinds of the steps that the tokenizer's decoder takes, in order."""
    if tokenizer.decoder is None:
        return []
    decoder: dict[str, Any] = json.loads(tokenizer.decoder.__getstate__())
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    return [step["type"] for step in steps]


def _visible_tokens(tokenizer: Tokenizer) -> list[str | None]:
    """Token of each id; None where it is special or there is none."""
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    tokens = map(tokenizer.id_to_token, range(size))
    return [None if token in special else token for token in tokens]


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for its own byte, U+0100 and on for the other bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_ALPHABET = _byte_of_character()


def _token_bytes(token: str | None) -> bytes:
    """Bytes of a token; one with a character outside the alphabet (an added token) stands for itself."""
    if token is None:
        return b""
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:
        return token.encode()
