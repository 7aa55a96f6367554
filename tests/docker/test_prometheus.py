"""Prometheus' and Alertmanager's files, judged by their own tools; every alert is tested and explained."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "docker" / "prometheus"
ALERTMANAGER = ROOT / "docker" / "alertmanager" / "alertmanager.yml"
RUNBOOKS = ROOT / "docs" / "runbooks.md"
PAGE = ROOT / "docs" / "observability.md"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))


def run(tool: str, *arguments: str | Path) -> str:
    binary = shutil.which(tool)
    assert binary is not None, "apt-get install prometheus prometheus-alertmanager"
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, cwd=PROMETHEUS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def groups(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(path.read_text())["groups"]
    return found


ALERTS = {
    rule["alert"]: rule
    for path in RULES
    for group in groups(path)
    for rule in group["rules"]
    if "alert" in rule
}


def test_the_configuration_and_its_rules_are_good() -> None:
    said = run("promtool", "check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")
    assert all(path.name in said for path in RULES)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_do_what_their_tests_say(path: Path) -> None:
    assert "SUCCESS" in run("promtool", "test", "rules", path)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_was_seen_to_fire_and_seen_not_to(alert: str) -> None:
    expected = [
        test["exp_alerts"]
        for path in TESTS
        for entry in yaml.safe_load(path.read_text())["tests"]
        for test in entry.get("alert_rule_test", ())
        if test["alertname"] == alert
    ]
    assert any(expected)
    assert not all(expected)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == "{{ $externalLabels.runbooks }}#" + alert.lower()
    (section,) = re.findall(rf"^## {alert}\n(.*?)(?=^## |\Z)", RUNBOOKS.read_text(), re.DOTALL | re.MULTILINE)
    for part in ("**Means**", "**Look**", "**Mend**"):
        assert part in section


def test_runbooks_explain_no_alert_that_is_gone() -> None:
    assert set(re.findall(r"^## (\w+)$", RUNBOOKS.read_text(), re.MULTILINE)) == set(ALERTS)


def test_recorded_names_follow_the_convention_and_are_explained() -> None:
    recorded = [
        rule["record"]
        for path in RULES
        for group in groups(path)
        for rule in group["rules"]
        if "record" in rule
    ]
    assert len(set(recorded)) == len(recorded) > 80
    assert [name for name in recorded if not re.fullmatch(r"[a-z_]+:[a-z0-9_]+:[a-z0-9_]+", name)] == []
    # One percentile and one window stand for all.
    explained = {_kind(name) for name in re.findall(r"`([a-z0-9_:]+)`", PAGE.read_text())}
    assert {_kind(name) for name in recorded} - explained == set()


def _kind(name: str) -> str:
    return re.sub(r":p\d\d_", ":p_", re.sub(r"_rate\d+[mhd]$", "_rate", name))


def test_metrics_of_facade_and_backends_are_explained() -> None:
    sources = [*ROOT.glob("gateway/**/*.py"), *ROOT.glob("python_backends/**/*.py")]
    named = {
        name
        for path in sources
        for name in re.findall(r'"(tritonforge_(?!generation|reload)[a-z_]+_[a-z]+)"', path.read_text())
    }
    assert len(named) > 25
    page = PAGE.read_text()
    assert {name for name in named if f"`{name}" not in page} == set()


def test_alertmanager_takes_its_configuration() -> None:
    run("amtool", "check-config", ALERTMANAGER)


@pytest.mark.parametrize(("severity", "receiver"), [("page", "pager"), ("ticket", "tickets")])
def test_each_severity_has_its_receiver(severity: str, receiver: str) -> None:
    arguments = (
        "config",
        "routes",
        "test",
        f"--config.file={ALERTMANAGER}",
        f"--verify.receivers={receiver}",
    )
    run("amtool", *arguments, f"severity={severity}", "alertname=TargetDown")


def test_no_secret_stands_in_alertmanagers_file() -> None:
    text = ALERTMANAGER.read_text()
    named = re.findall(
        r"^\s*-?\s*(routing_key|service_key|api_url|password|bot_token|url)(_file)?:", text, re.M
    )
    assert named
    assert all(suffix == "_file" for _, suffix in named)
