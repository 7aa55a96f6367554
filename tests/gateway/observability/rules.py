"""Which metrics the rules of Prometheus read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.conftest import CHECKOUT

RULES = CHECKOUT / "docker" / "prometheus" / "rules"

# Names of metrics stand where neither a function's parenthesis nor a label's operator follows.
_IN_BRACES = re.compile(r"\{[^}]*\}")
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_STRING = re.compile(r'"[^"]*"')
_RANGE = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")
_NAME = re.compile(r"(?<![\w:])[a-zA-Z_:][a-zA-Z0-9_:]*(?!\w)(?!\s*\()")
_KEYWORDS = {"and", "or", "unless", "by", "without", "bool"}
_BY_NAME = re.compile(r'__name__=~"([^"]+)"')

SHOWN_ELSEWHERE = {
    # Only a model that keeps answers has these: tests/e2e/test_response_cache.py.
    "nv_cache_num_hits_per_model",
    "nv_cache_num_misses_per_model",
    # Only after a call that ended so; test_dashboards.py sees others of the family.
    "envoy_cluster_grpc_2",
    "envoy_cluster_grpc_4",
    "envoy_cluster_grpc_13",
    "envoy_cluster_grpc_14",
    "envoy_cluster_grpc_15",
}


def rules() -> Iterator[dict[str, Any]]:
    """Every rule of every file."""
    for path in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def metrics_of(expression: str) -> set[str]:
    """Names of the metrics that an expression of PromQL reads."""
    listed = {name for names in _BY_NAME.findall(expression) for name in names.split("|")}
    for pattern in (_STRING, _IN_BRACES, _GROUPING, _RANGE):
        expression = pattern.sub("", expression)
    return listed | {name for name in _NAME.findall(expression) if name not in _KEYWORDS}


def metrics_read() -> set[str]:
    """Names of the metrics that rules read, but for those that rules make."""
    made = {rule["record"] for rule in rules() if "record" in rule}
    return set.union(*(metrics_of(rule["expr"]) for rule in rules())) - made
