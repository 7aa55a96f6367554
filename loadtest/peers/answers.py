"""Are the answers right? Each system's vectors beside those of sentence-transformers in float32."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray

from loadtest.errors import LoadTestError
from loadtest.peers.environments import state, unique
from loadtest.peers.records import Accuracy
from loadtest.peers.registry import PEERS
from loadtest.peers.settings import Setup
from loadtest.peers.system import PROGRAMS, Way

IN_FLIGHT = 16
_TIMEOUT_S = 300
_NEARER = 0.01  # texts that differ in case or a word may be as near as rounding is


def reference(model: Path, texts: Sequence[str], setup: Setup) -> NDArray[np.float32] | None:
    """Embed texts by sentence-transformers, in the environment of a peer, or in this one.

    Args:
        model: Folder with its files.
        texts: To embed.
        setup: Where the environments are.

    Returns:
        float32 [texts, dim]; None if sentence-transformers is nowhere.

    Raises:
        LoadTestError: It failed.
    """
    python = _with_sentence_transformers(setup)
    if python is None:
        return None
    folder = setup.root.absolute() / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    source, target = folder / "texts.json", folder / "vectors.npy"
    source.write_text(json.dumps(list(texts)))
    command = [str(python), str(PROGRAMS / "reference.py"), str(model.absolute()), str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise LoadTestError(f"the reference failed: {done.stderr.strip()[-400:]}", where=command[0])
    vectors: NDArray[np.float32] = np.load(target)
    return vectors


def _with_sentence_transformers(setup: Setup) -> Path | None:
    for environment in unique(peer.environment for peer in PEERS if peer.engine == "torch"):
        if state(environment, setup).ready:
            return setup.python(environment)
    return Path(sys.executable) if importlib.util.find_spec("sentence_transformers") else None


def ask(url: str, way: Way, texts: Sequence[str]) -> tuple[NDArray[np.float32], float]:
    """Ask each text once, so many at a time.

    Returns:
        float32 [texts, dim], and the mean size of an answer's body in bytes.

    Raises:
        LoadTestError: A request failed, or an answer has another form.
    """
    return asyncio.run(_ask(url, way, texts))


async def _ask(url: str, way: Way, texts: Sequence[str]) -> tuple[NDArray[np.float32], float]:
    pending = iter(enumerate(texts))
    vectors: list[Sequence[float]] = [()] * len(texts)
    sizes: list[int] = []
    headers = {"content-type": "application/json", **way.headers}
    async with httpx.AsyncClient(timeout=60.0, trust_env=False, headers=headers) as client:

        async def worker() -> None:
            for number, text in pending:
                response = await client.post(url, json=way.body(text))
                if not response.is_success:
                    raise LoadTestError(
                        f"answered {response.status_code}: {response.text[:200]}", where=way.title
                    )
                sizes.append(len(response.content))
                vectors[number] = way.read(response.json())

        try:
            await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        except httpx.HTTPError as error:
            told = str(error) or type(error).__name__
            raise LoadTestError(f"a request failed: {told}", where=way.title) from error
        except (KeyError, IndexError, TypeError, ValueError, StopIteration) as error:
            raise LoadTestError(f"an answer has another form: {error!r}", where=way.title) from error
    try:
        return np.array(vectors, np.float32), sum(sizes) / len(sizes)
    except ValueError as error:
        raise LoadTestError("answers have different lengths", where=way.title) from error


def judge(vectors: NDArray[np.float32], wanted: NDArray[np.float32], title: str) -> Accuracy:
    """Compare answers with the reference.

    Args:
        vectors: float32 [texts, dim].
        wanted: The reference's, float32 [texts, dim], of different texts.
        title: Of the row, for errors.

    Raises:
        LoadTestError: The shape is another, or a number is not finite.
    """
    if vectors.shape != wanted.shape:
        raise LoadTestError(f"answers are {vectors.shape}, the reference's {wanted.shape}", where=title)
    if not np.isfinite(vectors).all():
        raise LoadTestError("an answer holds numbers that are not finite", where=title)
    lengths = np.linalg.norm(vectors, axis=1)
    directions = vectors / np.maximum(lengths, 1e-12)[:, None]
    cosines = directions @ (wanted / np.linalg.norm(wanted, axis=1)[:, None]).T
    own = cosines.diagonal()
    return Accuracy(
        texts=len(wanted),
        mean=float(own.mean()),
        least=float(own.min()),
        norm=float(np.abs(lengths - 1).max()),
        wrong=int((cosines.max(axis=1) > own + _NEARER).sum()),
    )
