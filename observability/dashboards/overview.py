"""The board to open first: traffic, errors, latency, saturation, objectives, and what is firing.

It reads recorded rules (docker/prometheus/rules) where there are: they are over all gateways and servers, and
cost nothing to show. Latency with exemplars is computed here, as recorded series have none.
"""

from __future__ import annotations

from observability.dashboards.board import Board, percentile
from observability.dashboards.panels import Panel, levels, linked, number, query, series
from observability.dashboards.promql import or_zero, quantile, rate, share, total

_DOOR = 'envoy_http_conn_manager_prefix="door"'
_SERVERS = 'envoy_cluster_name=~".+/.+/(http|grpc)"'
_DURATION = "tritonforge_gateway_request_duration_seconds"
_FIRING = 'ALERTS{alertstate="firing"}'
_WINDOWS = ("5m", "1h", "6h", "3d")


def board() -> Board:
    """The four golden signals over all gateways and servers."""
    return (
        Board(
            "overview",
            "overview",
            "Traffic, errors, latency and saturation of all gateways and servers; what is firing.",
            percentile(),
        )
        .row("Now", *_now())
        .row("Objectives", *_objectives())
        .row("Traffic", *_traffic())
        .row("Errors", *_errors())
        .row("Latency", *_latency())
        .row("Saturation", *_saturation())
        .row("Cost", *_cost())
    )


def _now() -> tuple[Panel, ...]:
    return (
        number(
            "Requests a second",
            "Through the door, of every protocol.",
            "reqps",
            query("gateway:requests:rate5m"),
        ),
        number(
            "Failed",
            "Share of requests that ended in 5xx, or in a gRPC status that means the same.",
            "percentunit",
            query("gateway:errors:ratio_rate5m"),
            levels=levels(0.001, 0.01),
            decimals=2,
        ),
        number(
            "Latency, p99",
            "At the door of all gateways, streams included.",
            "s",
            query("gateway:request_duration_seconds:p99_rate5m"),
        ),
        number(
            "Waiting",
            "Requests in the queues of all servers, and in the lines of generators.",
            "none",
            query("sum (model:queue_length:sum)"),
            levels=levels(64, 256),
        ),
        number(
            "Healthy servers",
            "Share over all pools, regions and protocols, as the gateways see them.",
            "percentunit",
            query(
                share(
                    total("envoy_cluster_membership_healthy", _SERVERS),
                    total("envoy_cluster_membership_total", _SERVERS),
                )
            ),
            levels=levels(1, 0.67),
        ),
        number(
            "Alerts firing",
            "See the list below, and the runbook that each names.",
            "none",
            query(or_zero(f"count ({_FIRING})", "up")),
            levels=levels(1, 1),
        ),
    )


def _objectives() -> tuple[Panel, ...]:
    return (
        number(
            "Error budget left",
            "Of 30 days, or as long as Prometheus remembers. Below 0 the objective (settings.yml) is missed.",
            "percentunit",
            query("gateway:errors_budget_left:ratio_rate30d"),
            levels=levels(0.25, 0),
        ),
        series(
            "Burn rate: failed",
            "How many times faster than the objective allows the budget of errors is spent, over each "
            "window. 14.4 for an hour is 2% of a month's budget.",
            "none",
            *(
                query(f"gateway:errors:ratio_rate{window} / (1 - tritonforge:availability:objective)", window)
                for window in _WINDOWS
            ),
            width=10,
            levels=levels(6, 14.4),
        ),
        series(
            "Burn rate: slow",
            "The same of answers not in time: an encoder's, or a generator's first token (slo.yml).",
            "none",
            *(
                query(
                    f"gateway:slow_requests:ratio_rate{window} / (1 - tritonforge:latency:objective)", window
                )
                for window in _WINDOWS
            ),
            width=10,
            levels=levels(6, 14.4),
        ),
    )


def _traffic() -> tuple[Panel, ...]:
    return (
        series(
            "Requests by class of status",
            "At the door of all gateways.",
            "reqps",
            query(
                rate("envoy_http_downstream_rq_xx", _DOOR, by="envoy_response_code_class"),
                "{{envoy_response_code_class}}xx",
            ),
            stacked=True,
        ),
        linked(
            series(
                "Answered by model",
                "Requests a second that Triton answered; parts of ensembles are left out. A click leads to "
                "the model.",
                "reqps",
                query("served:requests:rate5m", "{{served}}"),
            ),
            "Model ${__field.labels.served}",
            "model",
            "model",
            "served",
        ),
        series(
            "Tokens a second",
            "Computed by encoders, read as prompts and generated by generators.",
            "none",
            query(or_zero("sum (model:tokens:rate5m)", "nv_inference_count"), "encoded"),
            query(or_zero("sum (model:prompt_tokens:rate5m)", "nv_inference_count"), "prompts"),
            query(or_zero("sum (model:generated_tokens:rate5m)", "nv_inference_count"), "generated"),
        ),
    )


def _errors() -> tuple[Panel, ...]:
    return (
        series(
            "Refused or failed at the door",
            "Limited: a caller asked too often (429). Shed: too much was under way. Failed: as above.",
            "reqps",
            query("gateway:limited:rate5m", "limited"),
            query("gateway:shed:rate5m", "shed"),
            query("gateway:errors:rate5m", "failed"),
        ),
        series(
            "Failed in Triton, by reason",
            "REJECTED: a queue was full. CANCELED: the caller left. BACKEND: the model. OTHER: an ensemble "
            "whose part failed.",
            "reqps",
            query("sum by (reason) (model_reason:failures:rate5m)", "{{reason}}"),
        ),
        series(
            "Firing alerts",
            "By name and severity; a line at 0 while none is.",
            "none",
            query(or_zero(f"count by (alertname, severity) ({_FIRING})", "up"), "{{alertname}} {{severity}}"),
        ),
    )


def _latency() -> tuple[Panel, ...]:
    return (
        series(
            "At the door",
            "Percentiles over all gateways, streams included.",
            "s",
            *(query(f"gateway:request_duration_seconds:{p}_rate5m", p) for p in ("p50", "p95", "p99")),
        ),
        series(
            "By route",
            "In the facade, the servers included. Points are single requests with a trace.",
            "s",
            query(
                quantile(_DURATION, 'method!~"/internal/.+|/health|/ready"', by="method"),
                "{{method}} p$percentile",
                exemplars=True,
            ),
        ),
        linked(
            series(
                "By model",
                "From asking for a model's answer to its end, computed or kept. Points are traced requests.",
                "s",
                query(
                    quantile("tritonforge_gateway_model_duration_seconds", by="model"),
                    "{{model}} p$percentile",
                    exemplars=True,
                ),
            ),
            "Model ${__field.labels.model}",
            "model",
            "model",
            "model",
        ),
    )


def _saturation() -> tuple[Panel, ...]:
    return (
        series(
            "Waiting, by model",
            "In Triton's queues and generators' lines. Growing while instances are busy: add servers.",
            "none",
            query("model:queue_length:sum", "{{model}}"),
        ),
        series(
            "Busy, by model",
            "Share of the time in which an instance executes, over all servers. 1: saturated.",
            "percentunit",
            query("model:busy:ratio_rate5m", "{{model}}"),
            most=1,
            levels=levels(0.8, 0.95),
        ),
        series(
            "Requests in flight",
            "At the door of all gateways.",
            "none",
            query("gateway:requests_in_flight:sum", "in flight"),
        ),
        series(
            "CPU of the servers' machines",
            "Share in use.",
            "percentunit",
            query("nv_cpu_utilization", "{{instance}}"),
            most=1,
            levels=levels(0.85, 0.95),
        ),
        series(
            "Memory of the servers' machines",
            "Share in use.",
            "percentunit",
            query("nv_cpu_memory_used_bytes / nv_cpu_memory_total_bytes", "{{instance}}"),
            most=1,
            levels=levels(0.85, 0.95),
        ),
        series(
            "Fullest KV cache, by model",
            "Share in use on the fullest server.",
            "percentunit",
            query(or_zero("model:kv_cache_usage:max", "nv_inference_count"), "{{model}}"),
            most=1,
            levels=levels(0.8, 0.95),
        ),
    )


def _cost() -> tuple[Panel, ...]:
    return (
        series(
            "Of 1,000 requests, by model",
            "What the servers cost by the hour (settings.yml), shared out by the models' CPU time. Idle "
            "servers cost too: the fewer requests, the dearer each.",
            "none",
            query("served:cost_per_1000_requests:rate5m", "{{served}}"),
            query("fleet:cost_per_1000_requests:rate5m", "all"),
        ),
        series(
            "Of a million tokens",
            "Encoded, read and generated alike.",
            "none",
            query("fleet:cost_per_million_tokens:rate5m", "all models"),
        ),
        series(
            "Of an hour",
            "Servers that are up, times their price.",
            "none",
            query("fleet:cost:per_hour", "all servers"),
        ),
    )
