"""Rules, scrapes and the queue's metric, as docker/prometheus has them, judged by Prometheus' own tool."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.charts import CHART
from tests.deploy.helm_support import case, one, over, render, rendered

PROMETHEUS = Path(__file__).parents[2] / "docker" / "prometheus"
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="apt-get install prometheus")

SERIES = """
rule_files: []
tests:
  - interval: 15s
    input_series:
      - {series: 'nv_inference_pending_request_count{LABELS,pod="a",model="minilm_engine"}', values: 5x4}
      - {series: 'nv_inference_pending_request_count{LABELS,pod="a",model="smollm2"}', values: 1x4}
      - {series: 'tritonforge_generation_waiting_requests{LABELS,pod="a",model="smollm2"}', values: 7x4}
      - {series: 'nv_inference_pending_request_count{LABELS,pod="b",model="minilm_engine"}', values: 2x4}
      - {series: 'nv_inference_pending_request_count{namespace="other",pod="c",model="x"}', values: 90x4}
    promql_expr_test:
      - expr: EXPR
        eval_time: 30s
        exp_samples: SAMPLES
"""


def test_rules_are_those_that_are_tested() -> None:
    """Mend: cp docker/prometheus/rules/*.yml deploy/helm/tritonforge/files/rules/."""
    ours = {path.name: path.read_text() for path in (CHART / "files" / "rules").glob("*")}
    assert ours == {path.name: path.read_text() for path in (PROMETHEUS / "rules").glob("*")}


def groups(values: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = one(render(values), "PrometheusRule")["spec"]["groups"]
    return found


def test_rules_arrive_with_their_settings_and_links() -> None:
    values = over(
        case("everything"), {"monitoring": {"prometheusRule": {"settings": {"serverPricePerHour": 1.5}}}}
    )
    rules = {group["name"]: group["rules"] for group in groups(values)}
    settings = {each["record"]: each["expr"] for each in rules.pop("settings")}
    assert settings == {
        "tritonforge:server_price:per_hour": "vector(1.5)",
        "tritonforge:availability:objective": "vector(0.999)",
        "tritonforge:latency:objective": "vector(0.99)",
    }
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            if group["name"] == "settings":
                assert {each["record"] for each in group["rules"]} == set(settings)
                continue
            for rule, original in zip(rules.pop(group["name"]), group["rules"], strict=True):
                link = rule.get("annotations", {}).get("runbook_url", "")
                if link:
                    assert link.startswith("https://runbooks.example.com/tritonforge#")
                    rule["annotations"]["runbook_url"] = original["annotations"]["runbook_url"]
                assert rule == original
    assert not rules


@promtool
def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": groups(case("everything"))}))
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scrapes_are_those_of_prometheus_yml() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    jobs = {each["job_name"]: each for each in config["scrape_configs"]}
    found = [
        endpoint
        for each in rendered("everything")
        if each["kind"] == "ServiceMonitor"
        for endpoint in each["spec"]["endpoints"]
    ]
    by_job = {endpoint["relabelings"][0]["replacement"]: endpoint for endpoint in found}
    assert by_job.keys() == {"triton", "gateway", "envoy"} <= jobs.keys()
    for name, endpoint in by_job.items():
        assert endpoint["relabelings"][0]["targetLabel"] == "job"
        assert endpoint.get("path", "/metrics") == jobs[name].get("metrics_path", "/metrics")
        kept = [
            {"source_labels": each["sourceLabels"], "regex": each["regex"], "action": each["action"]}
            for each in endpoint.get("metricRelabelings", [])
        ]
        assert kept == jobs[name].get("metric_relabel_configs", [])


def evaluate(expression: str, labels: str, samples: list[dict[str, Any]], folder: Path) -> None:
    text = SERIES.replace("LABELS", labels).replace("SAMPLES", str(samples))
    test = yaml.safe_load(text)
    test["tests"][0]["promql_expr_test"][0]["expr"] = expression
    path = folder / "test.yml"
    path.write_text(yaml.safe_dump(test))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_the_adapters_rule_counts_who_waits_in_each_pod(tmp_path: Path) -> None:
    (rule,) = yaml.safe_load((CHART / "files" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    metric = one(rendered("everything"), "HorizontalPodAutoscaler", "-server")["spec"]["metrics"][-1]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    # As prometheus-adapter fills its templates for all pods of a Deployment.
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", 'namespace="inference",pod=~"a|b"')
    evaluate(
        query,
        'namespace="inference"',
        [{"labels": '{pod="a"}', "value": 13}, {"labels": '{pod="b"}', "value": 2}],
        tmp_path,
    )


@promtool
def test_kedas_query_counts_who_waits_in_all(tmp_path: Path) -> None:
    trigger = one(rendered("gpu-keda"), "ScaledObject")["spec"]["triggers"][0]
    service = one(rendered("gpu-keda"), "Service", "-headless")["metadata"]["name"]
    evaluate(
        trigger["metadata"]["query"],
        f'namespace="inference",service="{service}"',
        [{"labels": "{}", "value": 15}],
        tmp_path,
    )
    assert trigger["metricType"] == "AverageValue"  # over the pods, so the sum is what it wants
