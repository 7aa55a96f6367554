"""One model, from the request to the engine: where its time goes and how well it is batched."""

from __future__ import annotations

from observability.dashboards.board import Board, choice, percentile
from observability.dashboards.panels import Panel, distribution, levels, number, query, series
from observability.dashboards.promql import or_zero, quantile, rate, share, total

_MODEL = 'instance=~"$instance", model=~"$model"'
_ASKED = 'model=~"$model"'
"""Recorded rules and the gateway's metrics know no server."""
_TRITON = "nv_inference_count"
_ENDS = "tritonforge_gateway_model_requests_total"
_STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


def board() -> Board:
    """Requests, latency by stage, batches, tokens, caches and processes."""
    return (
        Board(
            "model",
            "model",
            "One model and its parts: requests, where their time goes, batches, caches, restarts.",
            choice("instance", "Server", "label_values(nv_inference_count, instance)"),
            choice("model", "Model", "label_values(nv_inference_count, model)"),
            percentile(),
        )
        .row("Now", *_now())
        .row("Requests", *_requests())
        .row("Latency", *_latency())
        .row("Batches", *_batches())
        .row("Work", *_work())
        .row("Processes", *_processes())
    )


def _now() -> tuple[Panel, ...]:
    return (
        number(
            "Requests a second",
            "Answered. A request to an ensemble counts once there, and once in each part.",
            "reqps",
            query(rate("nv_inference_request_success", _MODEL)),
        ),
        number(
            "Failed",
            "Share of requests at the gateways that ended in an error, whoever's fault.",
            "percentunit",
            query(share(rate(_ENDS, f'{_ASKED}, code!="ok"'), rate(_ENDS, _ASKED))),
            levels=levels(0.001, 0.01),
            decimals=2,
        ),
        number(
            "Mean time",
            "In the server, from the request to the end of its response.",
            "µs",
            query(
                share(
                    rate("nv_inference_request_duration_us", _MODEL),
                    rate("nv_inference_request_success", _MODEL),
                )
            ),
        ),
        number(
            "Waiting",
            "Requests in queues. An ensemble has none of its own: its parts do.",
            "none",
            query(total("nv_inference_pending_request_count", _MODEL)),
            levels=levels(64, 256),
        ),
        number(
            "Texts an execution",
            "Mean batch. 1 under load: the requests do not overlap, or the queue delay is too short.",
            "none",
            query(share(rate("nv_inference_count", _MODEL), rate("nv_inference_exec_count", _MODEL))),
            decimals=1,
        ),
        number(
            "Tokens a second",
            "That engines computed; padding is not counted.",
            "none",
            query(or_zero(rate("tritonforge_tokens_total", _MODEL), _TRITON)),
        ),
    )


def _requests() -> tuple[Panel, ...]:
    return (
        series(
            "Answered, by model",
            "Requests a second.",
            "reqps",
            query(rate("nv_inference_request_success", _MODEL, by="model"), "{{model}}"),
        ),
        series(
            "Ends at the gateway, by model and code",
            "ok, or the code of the error as callers got it.",
            "reqps",
            query(rate(_ENDS, _ASKED, by="model, code"), "{{model}} {{code}}"),
            stacked=True,
        ),
        series(
            "Failed in Triton, by reason",
            "REJECTED: the queue was full or the request too old. CANCELED: the caller left. BACKEND: an "
            "execution broke. OTHER: an ensemble whose part failed. What a Python model answers to one "
            "request as its error is not counted here, but by the gateway.",
            "reqps",
            query(rate("nv_inference_request_failure", _MODEL, by="model, reason"), "{{model}} {{reason}}"),
        ),
        series(
            "Texts refused or cut",
            "By the tokenizer: texts too long for the limit in bytes or not UTF-8; texts cut to the model's "
            "length.",
            "cps",
            query(
                or_zero(rate("tritonforge_rejected_requests_total", _MODEL, by="reason"), _TRITON),
                "refused: {{reason}}",
            ),
            query(or_zero(rate("tritonforge_truncated_texts_total", _MODEL), _TRITON), "cut"),
        ),
    )


def _latency() -> tuple[Panel, ...]:
    return (
        series(
            "At the gateway",
            "From asking for an answer to its end, computed or kept, over all gateways. Points are "
            "requests with a trace.",
            "s",
            query(
                quantile("tritonforge_gateway_model_duration_seconds", _ASKED, by="model"),
                "{{model}} p$percentile",
                exemplars=True,
            ),
            query(quantile("tritonforge_gateway_model_duration_seconds", _ASKED, q="0.5"), "p0.5"),
        ),
        series(
            "One call to the servers",
            "Of encoders, over all gateways: the way there, Triton's queue and computation. What it lacks "
            "to the panel before is the gateway's own.",
            "s",
            query(
                quantile("tritonforge_gateway_server_duration_seconds", _ASKED, by="model"),
                "{{model}} p$percentile",
                exemplars=True,
            ),
            query(quantile("tritonforge_gateway_server_duration_seconds", _ASKED, q="0.5"), "p0.5"),
        ),
        series(
            "Mean time by stage",
            "In Triton, of a request to one of the chosen models: queue, inputs, computation, outputs. "
            "Growing queue: add servers or instances; growing computation: look at batches and lengths.",
            "µs",
            *(
                query(
                    share(
                        rate(f"nv_inference_{stage}_duration_us", _MODEL),
                        rate("nv_inference_request_success", _MODEL),
                    ),
                    stage.removeprefix("compute_"),
                )
                for stage in _STAGES
            ),
            stacked=True,
        ),
        series(
            "Request in Triton, slowest server",
            "Triton's own summary, of each server by itself: quantiles of several cannot be merged.",
            "µs",
            query(_slowest("nv_inference_request_summary_us"), "{{model}} p$percentile"),
        ),
        series(
            "Queue in Triton, slowest server",
            "The same of the wait for an instance.",
            "µs",
            query(_slowest("nv_inference_queue_summary_us"), "{{model}} p$percentile"),
        ),
        series(
            "Computation in Triton, slowest server",
            "The same of the model's own work.",
            "µs",
            query(_slowest("nv_inference_compute_infer_summary_us"), "{{model}} p$percentile"),
        ),
    )


def _batches() -> tuple[Panel, ...]:
    return (
        series(
            "Texts an execution, p50 and p95",
            "Half of the engine's executions had at most p50, nearly all at most p95; over all servers.",
            "none",
            query(f"model:execution_sequences:p50_rate5m{{{_ASKED}}}", "{{model}} p50"),
            query(f"model:execution_sequences:p95_rate5m{{{_ASKED}}}", "{{model}} p95"),
        ),
        distribution(
            "Texts an execution, all sizes",
            "Executions a second in each bucket. All in the lowest under load: the queue delay is too short.",
            "none",
            query(rate("tritonforge_execution_sequences_bucket", _MODEL, by="le")),
        ),
        distribution(
            "Tokens a run, distribution",
            "Runs a second in each bucket: what the packed batches of the engine come to. All in the "
            "highest: the token budget is the limit.",
            "none",
            query(rate("tritonforge_run_tokens_bucket", _MODEL, by="le")),
        ),
        series(
            "Requests an execution",
            "What Triton's scheduler put together; a request may hold several texts.",
            "none",
            query(f"model:execution_requests:p50_rate5m{{{_ASKED}}}", "{{model}} p50"),
            query(f"model:execution_requests:p95_rate5m{{{_ASKED}}}", "{{model}} p95"),
        ),
        series(
            "Padding avoided",
            "Share of tokens that padding to a rectangle would have added, and packing did not compute.",
            "percentunit",
            query(f"model:padding_avoided:ratio_rate5m{{{_ASKED}}}", "{{model}}"),
            most=1,
        ),
        series(
            "Texts an inference, mean",
            "By Triton's counts, which every kind of model has.",
            "none",
            query(
                share(
                    rate("nv_inference_count", _MODEL, by="model"),
                    rate("nv_inference_exec_count", _MODEL, by="model"),
                ),
                "{{model}}",
            ),
        ),
    )


def _work() -> tuple[Panel, ...]:
    return (
        series(
            "Tokens a second, by model",
            "Computed by engines, and read by tokenizers.",
            "none",
            query(rate("tritonforge_tokens_total", _MODEL, by="model"), "{{model}}"),
            query(rate("tritonforge_tokenized_tokens_total", _MODEL, by="model"), "{{model}}"),
        ),
        series(
            "Waiting, by model",
            "Requests in queues.",
            "none",
            query(total("nv_inference_pending_request_count", _MODEL, by="model"), "{{model}}"),
        ),
        series(
            "Busy, by server",
            "Share of the time in which an instance executes. 1: saturated.",
            "percentunit",
            query(f"instance_model:busy:ratio_rate5m{{{_MODEL}}}", "{{model}} {{instance}}"),
            most=1,
            levels=levels(0.8, 0.95),
        ),
        series(
            "Answers from the gateway's memory",
            "Questions of any model that were answered from memory, computed, or joined to a computation.",
            "reqps",
            query(rate("tritonforge_gateway_answers_total", by="from"), "{{from}}"),
            stacked=True,
        ),
        series(
            "Triton's response cache",
            "Of models that have one, 0 otherwise.",
            "reqps",
            query(or_zero(rate("nv_cache_num_hits_per_model", _MODEL), _TRITON), "hits"),
            query(or_zero(rate("nv_cache_num_misses_per_model", _MODEL), _TRITON), "misses"),
        ),
        series(
            "Cost of 1,000 requests",
            "By the price of a server in settings.yml and the model's share of the CPU time, parts included.",
            "none",
            query('served:cost_per_1000_requests:rate5m{served=~"$model"}', "{{served}}"),
        ),
    )


def _processes() -> tuple[Panel, ...]:
    return (
        series(
            "Stub restarts in an hour",
            "Loads of a model because its process died. Any is a defect, or memory: see the server's log.",
            "none",
            query(f"model:stub_restarts:increase1h{{{_ASKED}}}", "{{model}}"),
            levels=levels(1, 3),
        ),
        series(
            "Memory of stubs",
            "Resident, of each model's processes. Generators hold their KV cache there.",
            "bytes",
            query(
                total("tritonforge_stub_resident_memory_bytes", _MODEL, by="model, instance"),
                "{{model}} {{instance}}",
            ),
        ),
        series(
            "CPU of stubs",
            "Cores in use by each model's processes.",
            "none",
            query(rate("tritonforge_stub_cpu_seconds_total", _MODEL, by="model"), "{{model}}"),
        ),
    )


def _slowest(summary: str) -> str:
    """The greatest quantile of any server; the comparison drops those that had no request of late."""
    return f'max by (model) ({summary}{{{_MODEL}, quantile="$percentile"}} >= 0)'
