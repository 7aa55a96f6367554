"""One model, from the request to the engine: where its time goes and how well it is batched."""

from __future__ import annotations

from observability.dashboards.board import Board, choice, percentile
from observability.dashboards.panels import Panel, distribution, levels, number, query, series
from observability.dashboards.promql import or_zero, rate, share, total

_MODEL = 'instance=~"$instance", model=~"$model"'
_TRITON = "nv_inference_count"
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
            "Share of requests that ended in an error, whoever's fault.",
            "percentunit",
            query(
                share(
                    rate("nv_inference_request_failure", _MODEL),
                    f"({rate('nv_inference_request_success', _MODEL)} "
                    f"+ {rate('nv_inference_request_failure', _MODEL)})",
                )
            ),
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
            "Failed, by reason",
            "REJECTED: the queue was full or the request too old. CANCELED: the caller left. BACKEND: the "
            "model said no or broke. OTHER: an ensemble whose part failed.",
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
            "Mean time by stage",
            "Of a request, over the chosen models: queue, inputs, computation, outputs. Growing queue: "
            "add servers or instances; growing computation: look at batches and lengths.",
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
            "Whole request, quantile of one server",
            "Triton's own summary, of each server by itself: quantiles of several cannot be merged. "
            "The gateway's histograms can.",
            "µs",
            query(
                f'max by (model) (nv_inference_request_summary_us{{{_MODEL}, quantile="$percentile"}} >= 0)',
                "{{model}} p$percentile, slowest server",
            ),
        ),
        series(
            "Computation, quantile of one server",
            "Of the engine and tokenizer proper, by Triton's summary.",
            "µs",
            query(
                f"max by (model) (nv_inference_compute_infer_summary_us"
                f'{{{_MODEL}, quantile="$percentile"}} >= 0)',
                "{{model}} p$percentile, slowest server",
            ),
        ),
    )


def _batches() -> tuple[Panel, ...]:
    return (
        series(
            "Texts an execution, by model",
            "Mean batch that the scheduler made.",
            "none",
            query(
                share(
                    rate("nv_inference_count", _MODEL, by="model"),
                    rate("nv_inference_exec_count", _MODEL, by="model"),
                ),
                "{{model}}",
            ),
        ),
        distribution(
            "Tokens a run, distribution",
            "Runs a second in each bucket: what the packed batches of the engine come to. All in the lowest: "
            "there is nothing to batch; all in the highest: the token budget is the limit.",
            "none",
            query(rate("tritonforge_run_tokens_bucket", _MODEL, by="le")),
        ),
        series(
            "Padding avoided",
            "Share of tokens that padding to a rectangle would have added, and packing did not compute.",
            "percentunit",
            query(
                share(
                    rate("tritonforge_padding_avoided_tokens_total", _MODEL, by="model"),
                    f"({rate('tritonforge_padding_avoided_tokens_total', _MODEL, by='model')} "
                    f"+ {rate('tritonforge_tokens_total', _MODEL, by='model')})",
                ),
                "{{model}}",
            ),
            most=1,
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
            "Busy",
            "Seconds of computation a second, over all servers: at the number of instances times servers a "
            "model is full.",
            "none",
            query(f"{rate('nv_inference_compute_infer_duration_us', _MODEL, by='model')} / 1e6", "{{model}}"),
        ),
    )
