"""The front door: Envoy's view of callers and servers, and the facade behind it."""

from __future__ import annotations

from observability.dashboards import gateway_servers
from observability.dashboards.board import Board, choice, percentile
from observability.dashboards.gateway_servers import INSTANCE, SERVERS
from observability.dashboards.panels import Panel, levels, linked, mapping, number, query, series, states
from observability.dashboards.promql import or_zero, quantile, rate, share, total

_DOOR = f'{INSTANCE}, envoy_http_conn_manager_prefix="door"'
_FACADE = "tritonforge_gateway_shared_limits_down"
_ROUTES = f'{INSTANCE}, method!~"/internal/.+|/health|/ready"'
_DAY_S = 86400
_DURATION = "tritonforge_gateway_request_duration_seconds"


def board() -> Board:
    """Requests, refusals, servers, retries, the facade and its Redis."""
    return (
        Board(
            "gateway",
            "gateway",
            "The front door: callers, limits, servers and regions, breakers and retries, the facade.",
            choice("instance", "Gateway", "label_values(envoy_server_live, instance)"),
            percentile(),
        )
        .row("Now", *_now())
        .row("Callers", *_callers())
        .row("Servers", *gateway_servers.servers())
        .row("Breakers and retries", *gateway_servers.breakers_and_retries())
        .row("Facade", *_facade())
    )


def _now() -> tuple[Panel, ...]:
    return (
        number(
            "Requests a second",
            "Through the door, of every protocol; probes included.",
            "reqps",
            query(rate("envoy_http_downstream_rq_total", _DOOR)),
        ),
        number(
            "Server errors",
            "Share of HTTP answers with 5xx. gRPC's errors are in the panels by code.",
            "percentunit",
            query(
                share(
                    rate("envoy_http_downstream_rq_xx", f'{_DOOR}, envoy_response_code_class="5"'),
                    rate("envoy_http_downstream_rq_xx", _DOOR),
                )
            ),
            levels=levels(0.001, 0.01),
            decimals=2,
        ),
        number(
            "Latency, p$percentile",
            "From the request to the end of its answer, of every protocol and of streams too.",
            "ms",
            query(quantile("envoy_http_downstream_rq_time", _DOOR)),
        ),
        number(
            "Connections",
            "Of callers, open now.",
            "none",
            query(total("envoy_http_downstream_cx_active", _DOOR)),
        ),
        number(
            "Healthy servers",
            "Share over all pools, regions and protocols.",
            "percentunit",
            query(
                share(
                    total("envoy_cluster_membership_healthy", SERVERS),
                    total("envoy_cluster_membership_total", SERVERS),
                )
            ),
            levels=levels(1, 0.67),
        ),
        number(
            "Certificate ends in",
            "Of the door, the first to expire. No data: no TLS.",
            "s",
            query(
                f"min (envoy_listener_ssl_certificate_expiration_unix_time_seconds{{{INSTANCE}}}) - time()"
            ),
            levels=levels(14 * _DAY_S, 2 * _DAY_S),
        ),
    )


def _callers() -> tuple[Panel, ...]:
    return (
        series(
            "Requests by class of status",
            "At the door, before anything is refused.",
            "reqps",
            query(
                rate("envoy_http_downstream_rq_xx", _DOOR, by="envoy_response_code_class"),
                "{{envoy_response_code_class}}xx",
            ),
            stacked=True,
        ),
        series(
            "Requests by route and code",
            "Of the facade's APIs. KServe v2 goes past it: see the servers.",
            "reqps",
            query(rate(f"{_DURATION}_count", _ROUTES, by="method, code"), "{{method}} {{code}}"),
        ),
        series(
            "Latency by route",
            "In the facade, the servers included. Points are single requests with a trace.",
            "s",
            query(quantile(_DURATION, _ROUTES, by="method"), "{{method}} p$percentile", exemplars=True),
        ),
        series(
            "Refused for want of rights",
            "401 and 403: no token, a bad one, an unknown key, or a scope that is missing.",
            "cps",
            query(rate("envoy_http_jwt_authn_denied", _DOOR), "tokens"),
            query(rate("envoy_http_ext_authz_denied", _DOOR), "keys, shared limits"),
        ),
        series(
            "Refused by limits (429)",
            "By token buckets of this gateway (caller, address), and by Redis over all replicas.",
            "cps",
            query(
                rate(
                    "envoy_http_local_rate_limit_rate_limited",
                    INSTANCE,
                    by="envoy_local_http_ratelimit_prefix",
                ),
                "{{envoy_local_http_ratelimit_prefix}}",
            ),
            query(
                or_zero(rate("tritonforge_gateway_limited_requests_total", INSTANCE, by="limit"), _FACADE),
                "all replicas: {{limit}}",
            ),
        ),
        series(
            "Connections over time",
            "Open, upgraded to WebSocket, and refused because there were too many.",
            "none",
            query(total("envoy_http_downstream_cx_active", _DOOR), "open"),
            query(total("envoy_http_downstream_cx_upgrades_active", _DOOR), "WebSocket"),
            query(rate("envoy_connection_limit_limited_connections", INSTANCE), "refused a second"),
        ),
    )


def _facade() -> tuple[Panel, ...]:
    return (
        series(
            "In flight, by protocol",
            "Requests and sockets that the facade works on.",
            "none",
            query(total("tritonforge_gateway_requests_in_flight", INSTANCE, by="protocol"), "{{protocol}}"),
        ),
        linked(
            series(
                "Requests by model and end",
                "ok, or the code of the error, as callers got it.",
                "reqps",
                query(
                    rate("tritonforge_gateway_model_requests_total", INSTANCE, by="model, code"),
                    "{{model}} {{code}}",
                ),
            ),
            "Model ${__field.labels.model}",
            "model",
            "model",
            "model",
        ),
        linked(
            series(
                "First token, by model",
                "From asking a generator to the first part of its answer. Points are requests with a trace.",
                "s",
                query(
                    quantile("tritonforge_gateway_time_to_first_token_seconds", INSTANCE, by="model"),
                    "{{model}} p$percentile",
                    exemplars=True,
                ),
            ),
            "Generation of ${__field.labels.model}",
            "generation",
            "model",
            "model",
        ),
        linked(
            series(
                "Tokens, by model and kind",
                "Of texts read and of answers generated.",
                "none",
                query(
                    rate("tritonforge_gateway_tokens_total", INSTANCE, by="model, kind"),
                    "{{model}} {{kind}}",
                ),
            ),
            "Model ${__field.labels.model}",
            "model",
            "model",
            "model",
        ),
        series(
            "Answers from memory",
            "Questions answered from memory, computed, or joined to a computation under way.",
            "reqps",
            query(rate("tritonforge_gateway_answers_total", INSTANCE, by="from"), "{{from}}"),
            stacked=True,
        ),
        series(
            "Answers kept",
            "In the memory of the facade's processes.",
            "none",
            query(total("tritonforge_gateway_answers_kept", INSTANCE, by="instance"), "{{instance}}"),
        ),
        states(
            "Redis",
            "Whether the limits over all replicas can be counted there.",
            query(f"max by (instance) (tritonforge_gateway_shared_limits_down{{{INSTANCE}}})"),
            mapping(reached=(0, "green"), away=(1, "red")),
        ),
        series(
            "Redis: calls that failed",
            "Or took longer than limits.shared.timeout_ms.",
            "cps",
            query(
                or_zero(rate("tritonforge_gateway_redis_errors_total", INSTANCE, by="kind"), _FACADE),
                "{{kind}}",
            ),
        ),
        series(
            "Refused by the screen",
            "Requests whose text matched a denied pattern, by its number in screen.deny.",
            "cps",
            query(
                or_zero(rate("tritonforge_gateway_screened_requests_total", INSTANCE, by="pattern"), _FACADE),
                "pattern {{pattern}}",
            ),
        ),
        series(
            "Envoy's memory",
            "Allocated.",
            "bytes",
            query(total("envoy_server_memory_allocated", INSTANCE, by="instance"), "{{instance}}"),
        ),
    )
