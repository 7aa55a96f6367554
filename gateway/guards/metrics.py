"""What the guards count, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

SHARED_LIMITS_DOWN = Gauge(
    "tritonforge_gateway_shared_limits_down",
    "1 while Redis cannot be asked for the shared limits, which is worth an alert",
    multiprocess_mode="livemax",
)
REDIS_ERRORS = Counter(
    "tritonforge_gateway_redis_errors_total", "Calls to Redis that failed or took too long", ("kind",)
)
LIMITED = Counter(
    "tritonforge_gateway_limited_requests_total",
    "Requests refused by a limit of their caller over all replicas",
    ("limit",),
)
for _counter, _values in ((REDIS_ERRORS, ("timeout", "error")), (LIMITED, ("requests", "tokens"))):
    for _value in _values:
        _counter.labels(_value)  # 0 from the start: the first is an increase too
SCREENED = Counter(
    "tritonforge_gateway_screened_requests_total",
    "Requests refused because a text matched the denied pattern of this index",
    ("pattern",),
)
_ANSWERS = Counter(
    "tritonforge_gateway_answers_total",
    "Questions: answered from memory (hit), computed (miss), or joined to a computation under way",
    ("from",),
)
HITS, MISSES, JOINED = (_ANSWERS.labels(kind) for kind in ("memory", "model", "joined"))
ENTRIES = Gauge("tritonforge_gateway_answers_kept", "Answers in memory", multiprocess_mode="livesum")
