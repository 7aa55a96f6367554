"""minilm on the real server: the numbers of sentence-transformers, batched without padding."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from clients import Client
from tritonforge.server import TritonServer

COUNT = 400
LONGEST = 256  # tokens that minilm takes
Vectors = NDArray[np.float32]

# First and last character of some alphabets, Latin aside.
SCRIPTS = {
    "chinese": (0x4E00, 0x9FA5),
    "arabic": (0x0621, 0x064A),
    "hindi": (0x0904, 0x0939),
    "cyrillic": (0x0410, 0x044F),
    "greek": (0x0391, 0x03C9),
    "hebrew": (0x05D0, 0x05EA),
    "thai": (0x0E01, 0x0E2E),
    "hangul": (0xAC00, 0xD7A3),
    "kana": (0x3041, 0x30FA),
}
EMOJI = "🙂🚀📦❤️👩‍👩‍👧🏳️‍🌈🇩🇪👍🏽😂🎉"
ODD = [
    "",
    " ",
    "\t\n \r\u2003",
    "a",
    "\x00",
    "NUL \x00\x00 inside",
    "\u200b",
    "￼",
    "[SEP] [CLS] [PAD] [MASK]",
    "ﬁ ǆ ½",
]


def words_of(script: str, count: int, rng: random.Random) -> str:
    first, last = SCRIPTS[script]
    return " ".join(
        "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 8))) for _ in range(count)
    )


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Lengths spread over the magnitudes from nothing to beyond 256 tokens."""
    from gensim.test.utils import datapath

    rng = random.Random(0)
    corpus = Path(datapath("lee_background.cor")).read_text(encoding="utf-8").split()
    found = [*ODD, "word " * 5000, "x" * 20_000, "🚀" * 500]
    while len(found) < COUNT:
        length = round(2 ** rng.uniform(0, 7.5))
        kind = rng.random()
        if kind < 0.6:
            start = rng.randrange(len(corpus) - length)
            text = " ".join(corpus[start : start + length])
        elif kind < 0.9:
            text = words_of(rng.choice(list(SCRIPTS)), 1 + length // 8, rng)
        else:
            text = "".join(
                rng.choice([*EMOJI, " ", "word", words_of("cyrillic", 1, rng)]) for _ in range(length)
            )
        found.append(text)
    rng.shuffle(found)
    return found


@pytest.fixture(scope="module")
def count_tokens(minilm: Any) -> Callable[[Sequence[str]], int]:
    """By the model's own tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm.context.model.folder)

    def count(texts: Sequence[str]) -> int:
        encoded = tokenizer(list(texts), truncation=True, max_length=LONGEST, padding=False)
        return sum(map(len, encoded["input_ids"]))

    return count


@pytest.fixture(scope="module")
def expected(minilm: Any, texts: list[str]) -> Vectors:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm.context.model.folder), device="cpu")
    assert model.max_seq_length == minilm.context.settled.max_length == LONGEST
    vectors: Vectors = model.encode(texts, batch_size=32, show_progress_bar=False)
    return vectors


@pytest.fixture
def client(minilm_server: TritonServer, protocol: Any) -> Iterator[Client]:
    url = minilm_server.grpc_url if protocol == "grpc" else minilm_server.http_address
    with Client(url, "minilm", protocol=protocol, timeout=120) as connected:
        yield connected


def check(found: Vectors, expected: Vectors, texts: Sequence[str]) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = (found * expected).sum(axis=1) / norms
    worst = int(cosine.argmin())
    assert cosine[worst] >= 0.99999, f"cosine {cosine[worst]} of {texts[worst][:80]!r}"


def mixed_parts(count: int) -> list[slice]:
    """Consecutive slices of 1 to 64."""
    rng = random.Random(1)
    parts, start = [], 0
    while start < count:
        size = rng.randint(1, 64)
        parts.append(slice(start, start + size))
        start += size
    return parts


def test_the_texts_are_what_they_should_be(texts: list[str], count_tokens: Callable[..., int]) -> None:
    lengths = [count_tokens([text]) for text in texts]
    assert len(texts) == COUNT
    assert (min(lengths), max(lengths)) == (2, LONGEST)  # [CLS] and [SEP] are always there
    assert sum(length > 100 for length in lengths) > COUNT / 20
    assert sum(length < 10 for length in lengths) > COUNT / 10


@pytest.mark.parametrize("protocol", ["grpc"])
@pytest.mark.slow
def test_one_text_a_request(client: Client, texts: list[str], expected: Vectors) -> None:
    check(np.concatenate([client.embed([text]) for text in texts]), expected, texts)


@pytest.mark.parametrize("protocol", ["http"])
@pytest.mark.slow
def test_requests_of_1_to_64_texts(client: Client, texts: list[str], expected: Vectors) -> None:
    found = [client.embed(texts[part]) for part in mixed_parts(COUNT)]
    check(np.concatenate(found), expected, texts)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.slow
def test_64_requests_of_mixed_size_at_once(client: Client, texts: list[str], expected: Vectors) -> None:
    """Each request finds the others' texts in its batch, and gets its own rows back."""
    rng = random.Random(2)
    parts, start = [], 0
    while start < COUNT:
        size = rng.choice([1, 1, 1, 2, 3, 5, 8, 13, 64])
        parts.append(slice(start, start + size))
        start += size
    order = rng.sample(range(len(parts)), len(parts))
    found: dict[int, Vectors] = {}
    with ThreadPoolExecutor(64) as pool:
        for index, rows in zip(order, pool.map(lambda i: client.embed(texts[parts[i]]), order), strict=True):
            found[index] = rows
    check(np.concatenate([found[index] for index in range(len(parts))]), expected, texts)


# -- batching without padding


class Metrics:
    """Counters of the engine, summed over labels."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, name: str) -> float:
        page = httpx.get(self._url, timeout=60, trust_env=False).raise_for_status().text
        lines = re.findall(rf"^{name}{{(.*)}} (\S+)$", page, re.MULTILINE)
        return sum(float(value) for labels, value in lines if 'model="minilm_engine"' in labels)

    def settles_at(self, name: str, value: float) -> float:
        """The backend counts just after it has answered."""
        end = time.monotonic() + 120
        while (found := self(name)) != value and time.monotonic() < end:
            time.sleep(0.2)
        return found


def test_batches_form_and_only_real_tokens_are_computed(
    minilm_server: TritonServer, texts: list[str], count_tokens: Callable[..., int]
) -> None:
    metrics = Metrics(minilm_server.metrics_url)
    names = (
        "nv_inference_count",
        "nv_inference_exec_count",
        "tritonforge_tokens_total",
        "tritonforge_sequences_total",
        "tritonforge_padding_avoided_tokens_total",
    )
    with Client(minilm_server.grpc_url, "minilm", timeout=120) as client:
        client.embed(["quiet"])
        before = {}
        while before != (before := {name: metrics(name) for name in names}):
            time.sleep(0.5)  # what was asked before is counted still
        with ThreadPoolExecutor(64) as pool:
            list(pool.map(lambda text: client.embed([text]), texts))
    tokens = count_tokens(texts)
    assert metrics.settles_at(names[2], before[names[2]] + tokens) - before[names[2]] == tokens
    grown = {name: metrics(name) - before[name] for name in names}
    assert grown["nv_inference_count"] == grown["tritonforge_sequences_total"] == COUNT
    assert grown["nv_inference_exec_count"] * 2 < grown["nv_inference_count"]
    assert grown["tritonforge_padding_avoided_tokens_total"] > tokens / 10
