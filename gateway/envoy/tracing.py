"""Envoy's spans: who is sampled, how the servers learn of it, and where the spans go.

The decision is made here once. Triton takes any ``traceparent`` for a wish to be traced, whatever its flag
says, so a request that is not sampled goes on without one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.config import GatewayConfig
from gateway.config.tracing import Tracing
from gateway.envoy.endpoints import system_ca_file
from gateway.envoy.logs import REQUEST_ID
from gateway.envoy.pools import seconds
from gateway.envoy.typed import endpoint, extension, header, socket_address, typed
from gateway.paths import RunPaths
from gateway.tracing import TRACEPARENT, header_values

CONTEXT_HEADERS = (TRACEPARENT, "tracestate", "baggage")
_CLUSTER = "collector"
_EXPORT_S = 5.0
_CONNECT_S = 2.0
_SAMPLERS = "extensions.tracers.opentelemetry.samplers.v3"
_SAMPLER = "envoy.tracers.opentelemetry.samplers"


def tracing(config: GatewayConfig, paths: RunPaths) -> dict[str, Any]:
    """The part of the door's connection manager; empty where spans go nowhere.

    A caller's trace goes on under its id, but only ``sampling_percent`` of those that ask to be sampled are:
    a stranger cannot raise the share. Where callers are trusted, their flag decides, and the percentage is
    for requests without one.
    """
    section = config.tracing
    if section.endpoint is None:
        return {}
    sampled = 100.0 if section.trust_callers else section.sampling_percent
    return {
        "tracing": {
            "provider": _provider(section, paths),
            "random_sampling": {"value": sampled},
            "client_sampling": {"value": 0},  # x-client-trace-id of a stranger
            "overall_sampling": {"value": 100},
            # `http.url` without path and query, which may hold what a caller wrote.
            "max_path_tag_length": 0,
            "custom_tags": [
                {"tag": "url.path", "value": "%PATH(NQ)%"},
                {"tag": "request_id", "value": REQUEST_ID},  # as in the logs
            ],
        }
    }


def drops_context(config: GatewayConfig) -> bool:
    """Whether callers' trace headers are removed at the door: else Triton would do their bidding."""
    return config.tracing.endpoint is None and not config.tracing.trust_callers


def upstream_filters(config: GatewayConfig) -> dict[str, Any]:
    """The router's part: the tracer writes its header last, so it is looked at on the way to the server."""
    if config.tracing.endpoint is None:
        return {}
    flag = extension(
        "request-headers", "type.matcher.v3.HttpRequestHeaderMatchInput", header_name=TRACEPARENT
    )
    skip = extension("skip", "extensions.filters.common.matcher.action.v3.SkipFilter")
    is_sampled = {"single_predicate": {"input": flag, "value_match": {"suffix": "-01"}}}
    withhold = extension(
        "withhold",
        "extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={"request_mutations": [{"remove": name} for name in CONTEXT_HEADERS]},
    )
    return {
        "upstream_http_filters": [
            extension(
                "tritonforge.unsampled",
                "extensions.common.matching.v3.ExtensionWithMatcher",
                extension_config=withhold,
                xds_matcher={
                    "matcher_list": {"matchers": [{"predicate": is_sampled, "on_match": {"action": skip}}]}
                },
            ),
            extension(
                "envoy.filters.http.upstream_codec",
                "extensions.filters.http.upstream_codec.v3.UpstreamCodec",
            ),
        ]
    }


def collector_cluster(config: GatewayConfig) -> Iterator[dict[str, Any]]:
    """Where spans are sent to; none where they go nowhere.

    Raises:
        GatewayConfigError: The endpoint is https, and this machine's CAs are not found.
    """
    section = config.tracing
    if section.endpoint is None:
        return
    url = urlsplit(section.endpoint)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    cluster: dict[str, Any] = {
        "name": _CLUSTER,
        "type": "LOGICAL_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": seconds(_CONNECT_S),
        "load_assignment": {
            "cluster_name": _CLUSTER,
            "endpoints": [{"lb_endpoints": [endpoint(socket_address(host, port))]}],
        },
    }
    if url.scheme == "https":
        names = [{"san_type": _kind(host), "matcher": {"exact": host}}]
        trusted = {"filename": section.ca_file or system_ca_file()}
        cluster["transport_socket"] = extension(
            "envoy.transport_sockets.tls",
            "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            sni=host,
            common_tls_context={
                "validation_context": {"trusted_ca": trusted, "match_typed_subject_alt_names": names}
            },
        )
    yield cluster


def secret_files(config: GatewayConfig, paths: RunPaths) -> dict[Path, str]:
    """Values of the collector's headers, each in a file that Envoy reads.

    Raises:
        GatewayConfigError: A file of them cannot be read, or holds no value.
    """
    if config.tracing.endpoint is None:
        return {}
    return {_file(name, paths): value for name, value in header_values(config.tracing).items()}


def _provider(section: Tracing, paths: RunPaths) -> dict[str, Any]:
    headers = [header(each.name, f"%FILE_CONTENT({_file(each.name, paths)})%") for each in section.headers]
    service: dict[str, Any] = {
        "http_uri": {"uri": section.traces_url, "cluster": _CLUSTER, "timeout": seconds(_EXPORT_S)},
        "request_headers_to_add": headers,
    }
    if headers:
        formatter = extension(
            "envoy.formatter.file_content", "extensions.formatter.file_content.v3.FileContent"
        )
        service["formatters"] = [formatter]
    tracer: dict[str, Any] = {"service_name": f"{section.service_name}-door", "http_service": service}
    if section.trust_callers:
        share = {"numerator": round(section.sampling_percent * 10_000), "denominator": "MILLION"}
        ratio = extension(
            f"{_SAMPLER}.trace_id_ratio_based",
            f"{_SAMPLERS}.TraceIdRatioBasedSamplerConfig",
            sampling_percentage=share,
        )
        tracer["sampler"] = extension(
            f"{_SAMPLER}.parent_based", f"{_SAMPLERS}.ParentBasedSamplerConfig", wrapped_sampler=ratio
        )
    return {
        "name": "envoy.tracers.opentelemetry",
        "typed_config": typed("config.trace.v3.OpenTelemetryConfig", **tracer),
    }


def _file(name: str, paths: RunPaths) -> Path:
    return paths.folder / f"collector-{name.lower()}"


def _kind(host: str) -> str:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "DNS"
    return "IP_ADDRESS"
