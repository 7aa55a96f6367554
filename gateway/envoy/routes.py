"""Everything that can be reached from outside; what is not listed here does not exist.

Each route says in its metadata which API it belongs to. ``authorize.lua`` reads that, and refuses a route
that says nothing. Requests of KServe v2 meet first a route without a pool, which only tells what to check;
once a request may pass, its pool is known, and it is routed anew to a route of that pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.config import GatewayConfig
from gateway.envoy.clusters import pool_action
from gateway.envoy.pools import Protocol, next_try, seconds
from gateway.envoy.typed import header, typed
from gateway.envoy.upstreams import FACADE_GRPC, FACADE_HTTP
from gateway.identity import POOL_HEADER

Match = dict[str, Any]
Route = dict[str, Any]

OPEN = "open"
"""Pages and health: everybody."""
ANY = "any"
"""Everybody who is known, whatever their scopes."""
LUA = "envoy.filters.http.lua"
BUFFER = "envoy.filters.http.buffer"
ADAPTIVE = "envoy.filters.http.adaptive_concurrency"
SUBJECT_LIMIT = "tritonforge.limit.subject"
LIMIT_HEADERS = "envoy.filters.http.header_mutation"

_GRACE_S = 2.0
"""The facade ends a request that is late in its own words; Envoy only where it does not."""
_NAME = "[A-Za-z0-9_.-]+"
_MODEL = rf"/v2/models/{_NAME}(/versions/[0-9]+)?"
_INFERENCE = "/inference.GRPCInferenceService/"

_REST = (  # path, scope, may stream; `/embed*`: `/embed` and `/embed/batch`, but not `/embedded`
    ("/embed*", "embed", False),
    ("/classify*", "classify", False),
    ("/predict*", "generate", False),
    ("/v1/embeddings", "embed", False),
    ("/v1/chat/completions", "generate", True),
    ("/v1/completions", "generate", True),
    ("/v1/models*", ANY, False),
    ("/stats", ANY, False),
)
_KSERVE_HTTP = (  # method, path, where the model's name stands, streams
    ("POST", rf"{_MODEL}/(infer|generate)", "path", False),
    ("POST", rf"{_MODEL}/generate_stream", "path", True),
    ("GET", rf"{_MODEL}(/ready|/config|/stats)?", "path", False),
    ("GET", "/v2(/health/(live|ready))?", "", False),
)
_KSERVE_GRPC = (  # method, where the model's name stands, streams
    ("ModelInfer", "message", False),
    ("ModelStreamInfer", "all", True),
    ("ModelReady", "message", False),
    ("ModelMetadata", "message", False),
    ("ModelConfig", "message", False),
    ("ModelStatistics", "message", False),
    ("ServerLive", "", False),
    ("ServerReady", "", False),
    ("ServerMetadata", "", False),
)


def routes(config: GatewayConfig) -> list[Route]:
    """All routes of the door, the busiest first: Envoy takes the first that fits."""
    return [*_rest(config), *_kserve(config), *_grpc(config), *_websocket(config), *_open(config)]


def _rest(config: GatewayConfig) -> Iterator[Route]:
    for path, scope, streams in _REST:
        action = _facade_action(config, FACADE_HTTP, streams=streams)
        below = path.endswith("*")
        match = {"path_separated_prefix": path[:-1]} if below else {"path": path}
        yield _route(match, scope, action, unbounded="adaptive" if streams else "")


def _kserve(config: GatewayConfig) -> Iterator[Route]:
    guards: list[tuple[Match, str, Protocol, bool]] = []
    for verb, path, model, streams in _KSERVE_HTTP:
        match = {"safe_regex": {"regex": path}, "headers": [_method(verb)]}
        guards.append((match, model, "http", streams))
    for method, model, streams in _KSERVE_GRPC:
        guards.append(({"path": _INFERENCE + method, "grpc": {}}, model, "grpc", streams))
    for match, model, protocol, streams in guards:
        for pool in config.pools:
            served = match | {"headers": [*match.get("headers", []), _exactly(POOL_HEADER, pool.name)]}
            action = _limits(config, streams) | pool_action(config, pool, protocol, streams)
            yield _route(served, "kserve", action, model, unbounded="stream" if streams else "")
        # Never the last word on a request: authorize.lua refuses it, or names its pool.
        nowhere = {"cluster": "nowhere", "cluster_not_found_response_code": "NOT_FOUND"}
        yield _route(
            match,
            "kserve",
            _limits(config, streams) | nowhere,
            model,
            unbounded="stream" if streams else "",
        )


def _grpc(config: GatewayConfig) -> Iterator[Route]:
    streaming = _facade_action(config, FACADE_GRPC, streams=True)
    short = _facade_action(config, FACADE_GRPC, streams=False)
    for service, api, action in (
        ("tritonforge.v1.ModelService", ANY, streaming),
        ("grpc.health.v1.Health", OPEN, streaming),
        ("grpc.reflection.v1.ServerReflection", ANY, short),
        ("grpc.reflection.v1alpha.ServerReflection", ANY, short),
    ):
        yield _route({"prefix": f"/{service}/", "grpc": {}}, api, action, unbounded="stream")


def _websocket(config: GatewayConfig) -> Iterator[Route]:
    websocket = config.websocket
    action = {
        "cluster": FACADE_HTTP,
        "timeout": "0s",
        # Pings of the facade are answered by every caller that is still there.
        "idle_timeout": seconds(websocket.ping_interval_s + websocket.ping_timeout_s + _GRACE_S),
        "upgrade_configs": [{"upgrade_type": "websocket", "enabled": True}],
        "retry_policy": _RETRIES,
    }
    upgrade = {"name": "upgrade", "string_match": {"exact": "websocket", "ignore_case": True}}
    yield _route({"path": "/ws/generate", "headers": [upgrade]}, "generate", action, unbounded="stream")


def _open(config: GatewayConfig) -> Iterator[Route]:
    action = _facade_action(config, FACADE_HTTP, streams=False)
    matches: list[Match] = [{"path": "/health"}, {"path": "/ready"}]
    if config.facade.page:
        matches += [{"path": "/"}, {"prefix": "/page/"}]
    if config.facade.docs:
        matches += [{"path_separated_prefix": "/docs"}, {"path": "/openapi.json"}]
    for match in matches:
        for verb in ("GET", "HEAD"):
            yield _route(match | {"headers": [_method(verb)]}, OPEN, action)
        refusal = _route(match, OPEN, None)
        refusal["direct_response"] = {"status": 405}
        refusal["response_headers_to_add"] = [header("allow", "GET, HEAD")]
        yield refusal


def _route(match: Match, api: str, action: Any, model: str = "", *, unbounded: str = "") -> Route:
    """One route.

    Args:
        match: What it is for.
        api: The scope, :data:`OPEN` or :data:`ANY`.
        action: Where to; None: nowhere.
        model: Where the model's name stands: in the ``path`` or ``message``; ``all``: many may be meant.
        unbounded: ``stream``: neither the request nor the answer is held back, or counted as short;
            ``adaptive``: only the answer.
    """
    route: Route = {
        "match": match,
        "decorator": {"operation": _operation(match), "propagate": False},
        "metadata": {"filter_metadata": {LUA: {"api": api, "model": model}}},
    }
    without = {"": (), "adaptive": (ADAPTIVE,), "stream": (BUFFER, ADAPTIVE)}[unbounded]
    if api == OPEN:
        without = (*without, SUBJECT_LIMIT, LIMIT_HEADERS)
    if without:
        off = typed("config.route.v3.FilterConfig", disabled=True)
        route["typed_per_filter_config"] = dict.fromkeys(without, off)
    route |= {"direct_response": {"status": 404}} if action is None else {"route": action}
    return route


def _operation(match: Match) -> str:
    """Name of spans: the path as the route has it, never as a caller wrote it."""
    if "safe_regex" in match:
        pattern: str = match["safe_regex"]["regex"]
        return pattern.replace(_MODEL, "/v2/models/{model}")
    if "path" in match:
        return str(match["path"])
    return f"{match.get('prefix') or match['path_separated_prefix']}*"


_RETRIES = {
    # Only what cannot have begun: the facade itself retries nothing, Envoy retries on its way to the servers.
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 3,
    **next_try(),  # a facade process that died has the fewest requests, and would get every try
}


def _facade_action(config: GatewayConfig, cluster: str, *, streams: bool) -> dict[str, Any]:
    limits = _limits(config, streams)
    if cluster == FACADE_GRPC:
        longest = limits["max_stream_duration"]["max_stream_duration"]
        limits["max_stream_duration"]["grpc_timeout_header_max"] = longest
    return {"cluster": cluster, "retry_policy": _RETRIES, **limits}


def _limits(config: GatewayConfig, streams: bool) -> dict[str, Any]:
    """How long a request and its answer may take together, and how long both may be silent."""
    resilience = config.resilience
    whole = (resilience.stream_timeout_s if streams else resilience.request_timeout_s) + _GRACE_S
    silence = resilience.stream_idle_timeout_s if streams else resilience.request_timeout_s
    return {
        "timeout": "0s" if streams else seconds(whole),
        "idle_timeout": seconds(silence + _GRACE_S),
        # From the first byte of the request, so that one that trickles in ends too.
        "max_stream_duration": {"max_stream_duration": seconds(whole)},
    }


def _method(verb: str) -> dict[str, Any]:
    return _exactly(":method", verb)


def _exactly(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "string_match": {"exact": value}}
