"""What all clients share, free of any input or output: texts, chunks, retries, metadata, results."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import triton_to_np_dtype

from clients.errors import ClientError, InvalidRequestError

TEXT_INPUT = "text"
EMBEDDING_OUTPUTS = ("embedding",)
CLASSIFICATION_OUTPUTS = ("label", "score", "scores")

#: Texts in one request where the model's configuration sets no limit (``max_batch_size: 0``).
FALLBACK_BATCH_SIZE = 32

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and after which pauses, a refused request is sent again.

    Only :class:`~clients.errors.UnavailableError` is retried: the server was not there or turned the
    request away. A timeout is not, because the server may be working on the request still and a
    repeat would double the load just when it is slow.

    Attributes:
        attempts: Tries in all, the first included; 1 switches retries off.
        first_delay: Longest pause before the second try, in seconds; it doubles with each try.
        max_delay: Longest pause before any try, in seconds.
    """

    attempts: int = 4
    first_delay: float = 0.1
    max_delay: float = 2.0

    def __post_init__(self) -> None:
        """Refuse a policy under which nothing would be sent."""
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts}")

    def pauses(self) -> Iterator[float]:
        """Yield the seconds to wait before each further try.

        Half of each pause is random, so that clients which were refused together do not come back
        together.
        """
        for retry in range(self.attempts - 1):
            longest = min(self.first_delay * 2**retry, self.max_delay)
            yield longest * random.uniform(0.5, 1.0)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: Name of the tensor.
        datatype: Triton's name of the type, such as ``"FP32"`` or ``"BYTES"``.
        shape: Sizes, the batch first; -1 where the size is free.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelMetadata:
    """What the server says about a model.

    Attributes:
        name: Name of the model.
        versions: Versions that are loaded.
        max_batch_size: Texts that one request may carry; 0 where the model sets no limit.
        inputs: Its inputs.
        outputs: Its outputs.
    """

    name: str
    versions: tuple[str, ...]
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def from_server(cls, metadata: Mapping[str, Any], config: Mapping[str, Any]) -> ModelMetadata:
        """Build it from Triton's model metadata and model configuration, both as JSON objects."""

        def specs(key: str) -> tuple[TensorSpec, ...]:
            # gRPC's JSON form writes 64-bit sizes as strings.
            return tuple(
                TensorSpec(t["name"], t["datatype"], tuple(int(size) for size in t["shape"]))
                for t in metadata.get(key, ())
            )

        return cls(
            name=metadata["name"],
            versions=tuple(metadata.get("versions", ())),
            max_batch_size=int(config.get("max_batch_size", 0)),
            inputs=specs("inputs"),
            outputs=specs("outputs"),
        )

    def output(self, name: str) -> TensorSpec:
        """Return the output ``name``.

        Raises:
            InvalidRequestError: The model has no such output, so the wrong method was called.
        """
        for spec in self.outputs:
            if spec.name == name:
                return spec
        names = ", ".join(spec.name for spec in self.outputs)
        raise InvalidRequestError(
            f"model {self.name} has no output {name!r}; it has {names}",
            status="INVALID_ARGUMENT",
            hint="call embed() on embedding models, classify() on classification models, "
            "generate(), stream() or chat() on generation models",
        )

    def width(self, name: str) -> int:
        """Return the number of columns of the output ``name``, or 0 where the model leaves it free."""
        return max(self.output(name).shape[-1], 0)

    def chunk_size(self, limit: int | None) -> int:
        """Return how many texts to put into a request: the model's limit, or the caller's if smaller."""
        allowed = self.max_batch_size or FALLBACK_BATCH_SIZE
        return allowed if limit is None else min(limit, self.max_batch_size or limit)


class Prediction(NamedTuple):
    """The best label of one text.

    Attributes:
        label: Name of the label.
        score: Its probability, 0 to 1.
    """

    label: str
    score: float


@dataclass(frozen=True)
class Classification:
    """The labels of a list of texts.

    Attributes:
        predictions: The best ``(label, score)`` of each text, in the order of the texts.
        scores: Probabilities of all labels, float32 [texts, labels].
    """

    predictions: list[Prediction]
    scores: NDArray[np.float32] = field(repr=False)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Classification:
        """Build it from the outputs ``label``, ``score`` and ``scores`` of all texts."""
        labels = (label.decode() for label in arrays["label"].reshape(-1))
        best = arrays["score"].reshape(-1).tolist()
        return cls([Prediction(*pair) for pair in zip(labels, best, strict=True)], arrays["scores"])


def check_settings(url: str, protocol: str, timeout: float, concurrency: int, batch_size: int | None) -> None:
    """Refuse settings that cannot work.

    Raises:
        ValueError: One of them is out of range, the protocol is unknown, or ``url`` carries a scheme,
            which tritonclient does not take.
    """
    if "://" in url:
        raise ValueError(f"url must be host:port without a scheme: {url.partition('://')[2]!r}")
    if protocol not in ("grpc", "http"):
        raise ValueError(f'protocol must be "grpc" or "http", not {protocol!r}')
    if timeout <= 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout}")
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")


def encode_texts(texts: Iterable[str | bytes]) -> list[bytes]:
    """Check texts and encode them as UTF-8.

    Args:
        texts: Any iterable of str or bytes. Bytes are sent as they are and should be UTF-8.

    Returns:
        The texts as bytes.

    Raises:
        TypeError: A lone string was given, or an item is neither str nor bytes.
        ValueError: A string cannot be written as UTF-8 (it holds half of a surrogate pair).
    """
    if isinstance(texts, str | bytes | bytearray):
        raise TypeError(f"texts must be a list of texts, not one {type(texts).__name__}: wrap it, [text]")
    encoded: list[bytes] = []
    for index, text in enumerate(texts):
        if isinstance(text, str):
            try:
                encoded.append(text.encode())
            except UnicodeEncodeError as error:
                raise ValueError(f"texts[{index}] cannot be written as UTF-8: {error.reason}") from error
        elif isinstance(text, bytes):
            encoded.append(text)
        else:
            raise TypeError(f"texts[{index}] must be str or bytes, not {type(text).__name__}")
    return encoded


def split(texts: Sequence[bytes], size: int) -> list[Sequence[bytes]]:
    """Cut ``texts`` into runs of at most ``size``, in order."""
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def text_tensor(texts: Sequence[bytes]) -> NDArray[np.object_]:
    """Return the texts as Triton wants them: an object array [texts, 1]."""
    return np.array(texts, dtype=np.object_).reshape(-1, 1)


def build_request(
    tensors: Any, texts: Sequence[bytes], outputs: Sequence[str]
) -> tuple[list[Any], list[Any]]:
    """Build the inputs and the requested outputs of one request.

    Args:
        tensors: The module whose ``InferInput`` and ``InferRequestedOutput`` fit the protocol,
            ``tritonclient.grpc`` or ``tritonclient.http``.
        texts: The texts of the request.
        outputs: Names of the outputs wanted.
    """
    text = tensors.InferInput(TEXT_INPUT, [len(texts), 1], "BYTES")
    text.set_data_from_numpy(text_tensor(texts))
    return [text], [tensors.InferRequestedOutput(name) for name in outputs]


def read_outputs(result: Any, outputs: Sequence[str], rows: int) -> Arrays:
    """Take the outputs of one request out of tritonclient's result.

    Raises:
        ClientError: An output is missing or has another number of rows than the request had texts.
    """
    return {name: checked(result.as_numpy(name), name, rows) for name in outputs}


def checked(array: NDArray[Any] | None, name: str, rows: int) -> NDArray[Any]:
    """Return ``array`` if it has one row a text.

    Raises:
        ClientError: It has not, or it is missing.
    """
    if array is None or array.shape[:1] != (rows,):
        got = "nothing" if array is None else f"shape {list(array.shape)}"
        raise ClientError(f"output {name}: expected {rows} rows, got {got}", status="DATA_LOSS")
    return array


def join(parts: Sequence[Arrays], metadata: ModelMetadata, outputs: Sequence[str]) -> Arrays:
    """Join the outputs of several requests, in order; of none, into arrays of no rows."""
    if not parts:
        return {
            name: np.empty((0, metadata.width(name)), triton_to_np_dtype(metadata.output(name).datatype))
            for name in outputs
        }
    if len(parts) == 1:
        # What tritonclient returns is a read-only view of the message; callers get arrays of their own.
        return {name: parts[0][name].copy() for name in outputs}
    return {name: np.concatenate([part[name] for part in parts]) for name in outputs}
