"""The door's HTTP filters, in the order in which a request meets them."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tritonclient.grpc import model_config_pb2, service_pb2

from gateway.config import GatewayConfig
from gateway.config.limits import TokenBucket
from gateway.envoy import auth, lua
from gateway.envoy.logs import tell_request_id
from gateway.envoy.routes import ADAPTIVE, BUFFER, LIMIT_HEADERS, SUBJECT_LIMIT
from gateway.envoy.tracing import upstream_filters
from gateway.envoy.typed import extension, header, percent
from gateway.identity import SUBJECT_HEADER
from gateway.paths import RunPaths

CORS = "envoy.filters.http.cors"
_CALLERS = 65_536
"""Buckets that are kept, one for each caller; of more callers the longest unseen start anew."""
_UNBOUNDED = (1 << 32) - 1
_SERVICE = "inference.GRPCInferenceService"
_NAMED = {  # method of KServe v2 gRPC: field with the model's name
    "ModelInfer": "model_name",
    "ModelReady": "name",
    "ModelMetadata": "name",
    "ModelConfig": "name",
    "ModelStatistics": "name",
}


def http_filters(config: GatewayConfig, paths: RunPaths) -> list[dict[str, Any]]:
    """Who comes first costs least: floods are cut before signatures are checked, signatures before bodies."""
    return list(_filters(config, paths))


def _filters(config: GatewayConfig, paths: RunPaths) -> Iterator[dict[str, Any]]:
    limits = config.limits
    yield tell_request_id()
    if config.listen.allow_origins:
        yield extension(CORS, "extensions.filters.http.cors.v3.Cors")
    if limits.address is not None:
        yield _address_limit(limits.address)
    if limits.local is not None:
        # Answers meet filters the other way round: here all that is told of limits is there.
        yield _limit_headers()
    yield lua.credentials_filter(config)
    tokens = auth.jwt_filter(config, paths)
    if tokens is not None:
        yield tokens
    yield lua.identify_filter(config)
    admission = auth.admission_filter(config)
    if admission is not None:
        yield admission
    if limits.local is not None:
        yield _subject_limit(limits.local)
    # Before the model's name is read: it also lets that filter hold back as much, where HTTP/2 has less.
    yield extension(
        BUFFER, "extensions.filters.http.buffer.v3.Buffer", max_request_bytes=limits.max_body_bytes
    )
    yield _model_names()
    yield lua.authorize_filter(config)
    # How a gRPC call ends stands in its trailers, behind HTTP 200: counted by cluster and status.
    yield extension(
        "envoy.filters.http.grpc_stats",
        "extensions.filters.http.grpc_stats.v3.FilterConfig",
        stats_for_all_methods=False,
    )
    if config.resilience.adaptive_concurrency:
        yield _adaptive_concurrency(config)
    yield extension(
        "envoy.filters.http.router",
        "extensions.filters.http.router.v3.Router",
        suppress_envoy_headers=True,
        **upstream_filters(config),
    )


def _address_limit(bucket: TokenBucket) -> dict[str, Any]:
    # Whoever has one IPv6 address has its whole /64.
    by = {"masked_remote_address": {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}}
    said = [
        header("ratelimit-limit", str(bucket.burst)),
        header("ratelimit-remaining", "0"),
        header("ratelimit-reset", "1"),
    ]
    return _limit(
        "tritonforge.limit.address", bucket, by, "masked_remote_address", response_headers_to_add=said
    )


def _subject_limit(bucket: TokenBucket) -> dict[str, Any]:
    by = {"request_headers": {"header_name": SUBJECT_HEADER, "descriptor_key": "subject"}}
    return _limit(SUBJECT_LIMIT, bucket, by, "subject", enable_x_ratelimit_headers="DRAFT_VERSION_03")


def _limit(name: str, bucket: TokenBucket, by: dict[str, Any], key: str, **more: Any) -> dict[str, Any]:
    every_second = {"tokens_per_fill": bucket.per_second, "fill_interval": "1s", "max_tokens": bucket.burst}
    open_to_all = {"tokens_per_fill": _UNBOUNDED, "fill_interval": "1s", "max_tokens": _UNBOUNDED}
    return extension(
        name,
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix=name.replace(".", "_"),
        filter_enabled=percent(100),
        filter_enforced=percent(100),
        rate_limited_as_resource_exhausted=True,
        rate_limits=[{"actions": [by]}],
        # An entry without a value stands for each value that comes: a bucket for each caller.
        descriptors=[{"entries": [{"key": key}], "token_bucket": every_second}],
        max_dynamic_descriptors=_CALLERS,
        token_bucket=open_to_all,
        always_consume_default_token_bucket=False,
        **more,
    )


def _limit_headers() -> dict[str, Any]:
    """Envoy's names into those of the IETF draft, unless the facade has told of a shared limit."""
    names = ("limit", "remaining", "reset")
    return extension(
        LIMIT_HEADERS,
        "extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={
            "response_mutations": [
                *(
                    {"append": header(f"ratelimit-{name}", f"%RESP(x-ratelimit-{name})%", "ADD_IF_ABSENT")}
                    for name in names
                ),
                *({"remove": f"x-ratelimit-{name}"} for name in names),
            ]
        },
    )


def _model_names() -> dict[str, Any]:
    """Reads the model's name out of messages of KServe v2."""
    descriptors = FileDescriptorSet()
    for module in (model_config_pb2, service_pb2):
        module.DESCRIPTOR.CopyToProto(descriptors.file.add())
    return extension(
        "envoy.filters.http.grpc_field_extraction",
        "extensions.filters.http.grpc_field_extraction.v3.GrpcFieldExtractionConfig",
        descriptor_set={"inline_bytes": base64.b64encode(descriptors.SerializeToString()).decode()},
        extractions_by_method={
            f"{_SERVICE}.{method}": {"request_field_extractions": {field: {}}}
            for method, field in _NAMED.items()
        },
    )


def _adaptive_concurrency(config: GatewayConfig) -> dict[str, Any]:
    most = sum(len(pool.home_regions) for pool in config.pools) * config.resilience.breakers.max_requests
    return extension(
        ADAPTIVE,
        "extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
        gradient_controller_config={
            "sample_aggregate_percentile": {"value": 90},
            "concurrency_limit_params": {
                "max_concurrency_limit": most,
                "concurrency_update_interval": "0.1s",
            },
            "min_rtt_calc_params": {
                "interval": "30s",
                "request_count": 50,
                "jitter": {"value": 15},
                "min_concurrency": max(3, math.isqrt(most)),
            },
        },
    )
