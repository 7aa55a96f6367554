"""Requests whose texts and numbers pass through POSIX shared memory instead of the socket.

One region serves one request at a time: the texts lie at its start, the outputs of fixed size behind
them. Regions are kept for later requests, because registering one costs a round trip. A region that
a failed request has used is never used again: the server may still read or write it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import serialize_byte_tensor, triton_to_np_dtype
from tritonclient.utils import shared_memory as triton_shm

from clients.core import TEXT_INPUT, Arrays, ModelMetadata, checked, text_tensor
from clients.errors import ClientError, SharedMemoryError

_ALIGNMENT = 64
_SMALLEST_REGION = 64 * 1024

#: Seconds between a closing client's tries to unregister regions, about 5 in all. The server refuses
#: while a request uses a region, and for a moment after its answer.
RELEASE_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0)

HINT = (
    "the server must run on this host and see this /dev/shm (containers: --ipc=host), "
    "and since 26.04 it must be started with --allow-client-shm=true"
)


def region_lost(error: ClientError) -> bool:
    """Return whether the server does not know a region that it knew: it was restarted."""
    return "Unable to find shared memory region" in error.message


@dataclass
class Region:
    """A shared memory region of this process.

    Attributes:
        name: What the server calls it.
        key: The POSIX name, as ``shm_open`` takes it.
        nbytes: Its size.
        registered: Whether the server knows it.
    """

    name: str
    key: str
    nbytes: int
    registered: bool = False
    _handle: Any = field(default=None, repr=False)

    @classmethod
    def create(cls, nbytes: int) -> Region:
        """Create a region of ``nbytes``.

        Raises:
            SharedMemoryError: The system would not give it.
        """
        name = f"tritonforge-client-{os.getpid()}-{uuid.uuid4().hex}"
        region = cls(name, f"/{name}", nbytes)
        try:
            region._handle = triton_shm.create_shared_memory_region(
                name, region.key, nbytes, create_only=True
            )
        except triton_shm.SharedMemoryException as error:
            message = f"cannot create a region of {nbytes} bytes: {error.__cause__ or error}"
            raise SharedMemoryError(message, status="RESOURCE_EXHAUSTED", hint="enlarge /dev/shm") from error
        return region

    def write(self, content: bytes) -> None:
        """Put ``content`` at the start of the region."""
        triton_shm.set_shared_memory_region(self._handle, [np.frombuffer(content, dtype=np.uint8)])

    def read(self, dtype: Any, shape: Sequence[int], offset: int) -> NDArray[Any]:
        """Copy an array out of the region; a view would not outlive it."""
        view: NDArray[Any] = triton_shm.get_contents_as_numpy(self._handle, dtype, list(shape), offset)
        return view.copy()

    def destroy(self) -> None:
        """Unmap and unlink the region. A server that has it mapped keeps its own mapping."""
        triton_shm.destroy_shared_memory_region(self._handle)


class RegionPool:
    """The regions of one client. Thread-safe.

    ``retired`` holds the names of destroyed regions that the server must still forget: it refuses
    to while a request uses one, so the client asks again later.
    """

    def __init__(self) -> None:
        """Start with no region."""
        self._lock = threading.Lock()
        self._idle: list[Region] = []
        self.retired: list[str] = []

    def take(self, nbytes: int) -> Region:
        """Return a region of at least ``nbytes`` that nobody else uses."""
        with self._lock:
            for position, region in enumerate(self._idle):
                if region.nbytes >= nbytes:
                    return self._idle.pop(position)
            # All idle ones are too small. Replace one instead of adding: sizes only grow.
            outgrown = self._idle.pop() if self._idle else None
        if outgrown:
            self.retire(outgrown)
        return Region.create(max(_SMALLEST_REGION, 1 << (nbytes - 1).bit_length()))

    def give(self, region: Region) -> None:
        """Return a region whose request was answered."""
        with self._lock:
            self._idle.append(region)

    def retire(self, region: Region) -> None:
        """Destroy a region, and remember its name if the server has still to forget it."""
        region.destroy()
        if region.registered:
            with self._lock:
                self.retired.append(region.name)

    def retire_idle(self) -> None:
        """Destroy all regions that no request uses."""
        with self._lock:
            idle, self._idle = self._idle, []
        for region in idle:
            self.retire(region)

    def forget(self, name: str) -> None:
        """Drop a name that the server has forgotten."""
        with self._lock, contextlib.suppress(ValueError):
            self.retired.remove(name)


class SharedRequest:
    """One request laid out for a region.

    Args:
        texts: The texts of the request.
        outputs: Names of the outputs wanted. Those of fixed size go through the region; the others
            (labels, whose length nobody knows beforehand) come in the response.
        metadata: The model's.

    Attributes:
        nbytes: Size of the region that it needs.
    """

    def __init__(self, texts: Sequence[bytes], outputs: Sequence[str], metadata: ModelMetadata) -> None:
        """Serialize the texts and lay out the outputs behind them."""
        self._rows = len(texts)
        self._outputs = tuple(outputs)
        self._payload: bytes = serialize_byte_tensor(text_tensor(texts)).item()
        self._placed: dict[str, tuple[Any, tuple[int, ...], int, int]] = {}
        end = len(self._payload)
        for name in outputs:
            spec = metadata.output(name)
            row = spec.shape[1:]
            if spec.datatype == "BYTES" or any(size < 0 for size in row):
                continue
            dtype = triton_to_np_dtype(spec.datatype)
            shape = (self._rows, *row)
            offset = -(-end // _ALIGNMENT) * _ALIGNMENT
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            self._placed[name] = (dtype, shape, offset, size)
            end = offset + size
        self.nbytes = end

    def build(self, tensors: Any, region: Region) -> tuple[list[Any], list[Any]]:
        """Write the texts into ``region`` and return the inputs and requested outputs that point there."""
        region.write(self._payload)
        text = tensors.InferInput(TEXT_INPUT, [self._rows, 1], "BYTES")
        text.set_shared_memory(region.name, len(self._payload))
        requested = []
        for name in self._outputs:
            output = tensors.InferRequestedOutput(name)
            if name in self._placed:
                _, _, offset, size = self._placed[name]
                output.set_shared_memory(region.name, size, offset)
            requested.append(output)
        return [text], requested

    def read(self, result: Any, region: Region) -> Arrays:
        """Take the outputs from the region and the response.

        Raises:
            ClientError: An output is missing or has the wrong number of rows.
        """
        arrays: Arrays = {}
        for name in self._outputs:
            if name in self._placed:
                dtype, shape, offset, _ = self._placed[name]
                described = result.get_output(name)
                answered = described["shape"] if isinstance(described, dict) else described.shape
                if tuple(answered) != shape:
                    message = f"output {name}: expected shape {list(shape)}, got {list(answered)}"
                    raise ClientError(message, status="DATA_LOSS")
                arrays[name] = region.read(dtype, shape, offset)
            else:
                arrays[name] = checked(result.as_numpy(name), name, self._rows)
        return arrays
