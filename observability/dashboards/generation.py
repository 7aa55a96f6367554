"""Generation: what callers wait for (first and further tokens), and what bounds it (KV cache, places)."""

from __future__ import annotations

from grafana_foundation_sdk.builders import prometheus

from observability.dashboards.board import Board, choice, percentile
from observability.dashboards.panels import Panel, distribution, levels, number, query, series
from observability.dashboards.promql import quantile, rate, share, total

_METRIC = "tritonforge_generation_"
_MODEL = 'instance=~"$instance", model=~"$model"'
_GATEWAY = "tritonforge_gateway_"
_ASKED = 'model=~"$model"'


def board() -> Board:
    """Tokens, their latency, and the engine's places."""
    return (
        Board(
            "generation",
            "generation",
            "Tokens a second, time to the first token and between tokens, sequences and their cache.",
            choice("instance", "Server", f"label_values({_METRIC}steps_total, instance)"),
            choice("model", "Model", f"label_values({_METRIC}steps_total, model)"),
            percentile(),
        )
        .row("Now", *_now())
        .row("Latency", *_latency())
        .row("Work", *_work())
        .row("Capacity", *_capacity())
    )


def _now() -> tuple[Panel, ...]:
    return (
        number(
            "Tokens a second",
            "Generated, of all models and servers.",
            "none",
            query(rate(f"{_METRIC}tokens_total", _MODEL)),
            decimals=1,
        ),
        number(
            "First token, p$percentile",
            "From arrival at the server to the first token, queue included.",
            "s",
            query(quantile(f"{_METRIC}time_to_first_token_seconds", _MODEL)),
            levels=levels(1, 5),
        ),
        number(
            "Between tokens, p$percentile",
            "Mean time between the tokens of a request: what reads as fluent is below 0.1 s.",
            "s",
            query(quantile(f"{_METRIC}time_per_output_token_seconds", _MODEL)),
            levels=levels(0.1, 0.25),
        ),
        number(
            "Running",
            "Sequences in the engines.",
            "none",
            query(total(f"{_METRIC}running_sequences", _MODEL)),
        ),
        number(
            "Waiting",
            "Requests without a place in an engine. More than a moment's worth: add servers.",
            "none",
            query(total(f"{_METRIC}waiting_requests", _MODEL)),
            levels=levels(8, 64),
        ),
        number(
            "Fullest KV cache",
            "Share in use. Near 1 sequences are put back to wait, and latency jumps.",
            "percentunit",
            query(f"max ({_METRIC}kv_cache_usage_ratio{{{_MODEL}}})"),
            levels=levels(0.8, 0.95),
        ),
    )


def _latency() -> tuple[Panel, ...]:
    return (
        series(
            "First token, by model",
            "From arrival at the server, queue included.",
            "s",
            *_quantiles(f"{_METRIC}time_to_first_token_seconds", _MODEL),
        ),
        series(
            "Between tokens, by model",
            "Mean time between the tokens of a request. Grows with the sequences that share a step.",
            "s",
            *_quantiles(f"{_METRIC}time_per_output_token_seconds", _MODEL),
        ),
        series(
            "Wait for a place, by model",
            "From arrival to the engine: the part of the first token's time that more servers cure.",
            "s",
            *_quantiles(f"{_METRIC}queue_time_seconds", _MODEL),
        ),
        series(
            "First token, at the gateway",
            "From asking the server to the first part of its answer: the way between is the difference. "
            "Points are single requests with a trace.",
            "s",
            *_quantiles(f"{_GATEWAY}time_to_first_token_seconds", _ASKED, exemplars=True),
        ),
        series(
            "Between tokens, at the gateway",
            "Of streamed answers, as callers get them.",
            "s",
            *_quantiles(f"{_GATEWAY}time_per_output_token_seconds", _ASKED, exemplars=True),
        ),
        series(
            "Whole request, by model",
            "From arrival to the last token: as much a matter of lengths as of speed.",
            "s",
            *_quantiles(f"{_METRIC}request_duration_seconds", _MODEL),
        ),
        distribution(
            "First token, distribution",
            "Requests a second in each bucket. Two bands are two kinds of requests, such as prefix hits.",
            "s",
            query(rate(f"{_METRIC}time_to_first_token_seconds_bucket", _MODEL, by="le")),
        ),
        distribution(
            "Tokens of a prompt, distribution",
            "Requests a second in each bucket, at the gateway.",
            "none",
            query(rate(f"{_GATEWAY}request_tokens_bucket", f'{_ASKED}, kind="prompt"', by="le")),
        ),
        distribution(
            "Tokens of an answer, distribution",
            "Requests a second in each bucket, at the gateway.",
            "none",
            query(rate(f"{_GATEWAY}request_tokens_bucket", f'{_ASKED}, kind="completion"', by="le")),
        ),
    )


def _work() -> tuple[Panel, ...]:
    return (
        series(
            "Tokens a second, by model",
            "Generated, and read as prompts.",
            "none",
            query(rate(f"{_METRIC}tokens_total", _MODEL, by="model"), "{{model}} generated"),
            query(rate(f"{_METRIC}prompt_tokens_total", _MODEL, by="model"), "{{model}} prompts"),
        ),
        series(
            "Tokens a step",
            "Tokens generated in one step of the scheduler: how well sequences share the weights' way from "
            "memory.",
            "none",
            query(
                share(
                    rate(f"{_METRIC}tokens_total", _MODEL, by="model"),
                    rate(f"{_METRIC}steps_total", _MODEL, by="model"),
                ),
                "{{model}}",
            ),
        ),
        series(
            "Finished, by reason",
            "stop and length are answers; cancelled: the caller left; rejected: no place in the queue; "
            "timeout: waited too long; error: see the server's log.",
            "reqps",
            query(rate(f"{_METRIC}finished_requests_total", _MODEL, by="reason"), "{{reason}}"),
            stacked=True,
        ),
    )


def _capacity() -> tuple[Panel, ...]:
    return (
        series(
            "Sequences",
            "In the engine, and waiting for a place.",
            "none",
            query(total(f"{_METRIC}running_sequences", _MODEL, by="model"), "{{model}} running"),
            query(total(f"{_METRIC}waiting_requests", _MODEL, by="model"), "{{model}} waiting"),
        ),
        series(
            "KV cache in use",
            "By server. Servers that differ much get unlike lengths: look at the balancing.",
            "percentunit",
            query(f"{_METRIC}kv_cache_usage_ratio{{{_MODEL}}}", "{{model}} {{instance}}"),
            most=1,
            levels=levels(0.8, 0.95),
        ),
        series(
            "Prompt tokens found in the cache",
            "Share of prompt tokens whose keys and values were there already: shared system prompts and "
            "conversations that go on.",
            "percentunit",
            query(
                share(
                    rate(f"{_METRIC}prefix_cache_hit_tokens_total", _MODEL, by="model"),
                    rate(f"{_METRIC}prompt_tokens_total", _MODEL, by="model"),
                ),
                "{{model}}",
            ),
        ),
    )


def _quantiles(histogram: str, labels: str, *, exemplars: bool = False) -> tuple[prometheus.Dataquery, ...]:
    """The chosen percentile and the median of each model."""
    return (
        query(quantile(histogram, labels, by="model"), "{{model}} p$percentile", exemplars=exemplars),
        query(quantile(histogram, labels, by="model", q="0.5"), "{{model}} p0.5"),
    )
