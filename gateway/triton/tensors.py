"""Tensors in the raw form of KServe v2 gRPC, without copies that can be avoided.

Layout: ``raw_input_contents`` of https://github.com/kserve/open-inference-protocol; a BYTES element is its
length (uint32, little endian), then its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from clients.generation import DATATYPES

_LENGTH = struct.Struct("<I")
_DTYPES = {
    "BOOL": np.dtype("?"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT64": np.dtype("<u8"),
    "FP32": np.dtype("<f4"),
}

Outputs = dict[str, NDArray[Any] | list[bytes]]


def pack_texts(texts: Iterable[str]) -> bytes:
    """Texts as the elements of a BYTES tensor."""
    parts = []
    for text in texts:
        data = text.encode()
        parts.append(_LENGTH.pack(len(data)))
        parts.append(data)
    return b"".join(parts)


def unpack_bytes(raw: bytes) -> list[bytes]:
    """The elements of a BYTES tensor."""
    elements = []
    position = 0
    while position < len(raw):
        (length,) = _LENGTH.unpack_from(raw, position)
        position += _LENGTH.size
        elements.append(raw[position : position + length])
        position += length
    return elements


def text_request(model: str, version: str, texts: Sequence[str], outputs: Iterable[str]) -> ModelInferRequest:
    """A request of texts [b, 1] to an encoder."""
    request = ModelInferRequest(model_name=model, model_version=version)
    request.inputs.add(name="text", datatype="BYTES", shape=[len(texts), 1])
    request.raw_input_contents.append(pack_texts(texts))
    for name in outputs:
        request.outputs.add(name=name)
    return request


def generation_request(model: str, version: str, fields: Mapping[str, Any]) -> ModelInferRequest:
    """A request to a generator; ``fields`` hold a value for each input, ``stop`` a list."""
    request = ModelInferRequest(model_name=model, model_version=version)
    for name, value in fields.items():
        datatype = DATATYPES[name]
        values = value if isinstance(value, list) else [value]
        request.inputs.add(name=name, datatype=datatype, shape=[len(values)])
        raw = pack_texts(values) if datatype == "BYTES" else np.array(values, _DTYPES[datatype]).tobytes()
        request.raw_input_contents.append(raw)
    return request


def unpack_outputs(response: ModelInferResponse) -> Outputs:
    """Outputs by name: arrays that share the response's memory, BYTES as lists of bytes."""
    outputs: Outputs = {}
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if tensor.datatype == "BYTES":
            outputs[tensor.name] = unpack_bytes(raw)
        else:
            outputs[tensor.name] = np.frombuffer(raw, _DTYPES[tensor.datatype]).reshape(tensor.shape)
    return outputs
