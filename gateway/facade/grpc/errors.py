"""Errors in gRPC's own form: ``google.rpc.Status`` with the details that clients know how to read."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from gateway.errors import ApiError

DOMAIN = "tritonforge"
_LONGEST = 500
"""Characters of a text: it travels twice in metadata, of which clients take 8 KiB."""


def status_of(error: ApiError) -> Status:
    """An error as a status: ErrorInfo always, BadRequest where a field is at fault, RetryInfo where told."""
    code = grpc.StatusCode[error.code.grpc]
    told = {"field": error.field, "mend": error.mend}
    metadata = {name: value[:_LONGEST] for name, value in told.items() if value}
    details: list[Any] = [ErrorInfo(reason=error.code.name, domain=DOMAIN, metadata=metadata)]
    if error.field and code == grpc.StatusCode.INVALID_ARGUMENT:
        violation = BadRequest.FieldViolation(
            field=error.field[:_LONGEST], description=error.what[:_LONGEST], reason=error.code.name.upper()
        )
        details.append(BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        details.append(RetryInfo(retry_delay=delay))
    status = Status(code=code.value[0], message=error.what[:_LONGEST])
    for detail in details:
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    return status
