"""What a steady rate needs, and the commands that say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.scaling.__main__ import main
from loadtest.scaling.curve import Curve
from loadtest.scaling.events import Node
from loadtest.scaling.plan import Choices, over_zones, plan
from loadtest.scaling.profile import Profile, write_profile


@pytest.fixture
def curve(profile: Profile) -> Curve:
    return Curve.of(Node.of(profile), 2000)


def test_needs_grow_with_the_rate_and_the_price_of_a_request_does_not(profile: Profile, curve: Curve) -> None:
    choices = Choices(p99_s=0.1, gateway_cpu_s=profile.gateway_cpu_s)
    small, large = (plan(curve, profile, rate, choices) for rate in (1e4, 1e6))
    assert large.servers == pytest.approx(100 * small.servers, rel=0.05)
    assert large.cost_million == pytest.approx(small.cost_million, rel=0.05)
    assert large.p99_s <= 0.1
    assert large.p99_lost_s <= 0.1
    # 2 cores at 70% and 2 ms a request are 700 requests a second, and a third more for a lost zone.
    assert large.gateways == pytest.approx(1e6 / 700 * 1.5, rel=0.01)
    # Which is why there are cells: in one, every server would answer its checks alone.
    assert large.checks_uncut is not None and large.checks is not None
    assert large.checks_uncut > 1000 > 100 > large.checks
    assert large.cells == -(-large.servers // 100)


def test_a_lost_zone_leaves_enough(profile: Profile, curve: Curve) -> None:
    best = curve.highest_rate(0.1, 0.7)
    needs = plan(curve, profile, 10 * best, Choices())
    assert needs.servers == 15
    assert plan(curve, profile, 10 * best, Choices(zones=1)).servers == 10
    assert [over_zones(needed, 3) for needed in (1, 2, 3, 4)] == [3, 3, 6, 6]


def test_an_objective_that_cannot_be_kept_is_said(profile: Profile, curve: Curve) -> None:
    assert plan(curve, profile, 100, Choices(p99_s=0.001)).servers == 0


def test_commands_on_a_profile(profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "profile.json"
    write_profile(profile, file)
    common = ["--profile", str(file), "--requests", "500"]
    assert main(["plan", *common, "--rates", "10,1000000", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["rate"] for row in rows] == [10, 1_000_000]
    assert main(["plan", *common]) == 0
    assert "1,000,000" in capsys.readouterr().out
    words = ["simulate", *common, "--trace", "step", "--seconds", "600", "--peak", "2000"]
    words += ["--scaler", "fixed:3", "--scaler", "rate:150"]
    assert main([*words, "--json"]) == 0
    stories = json.loads(capsys.readouterr().out)
    # Three are too few for 2000 requests a second; what comes by rate is late, but comes.
    assert stories["fixed:3"]["started"] == 0
    assert stories["rate:150"]["started"] > 5
    assert stories["fixed:3"]["late_share"] > stories["rate:150"]["late_share"] > 0
    assert main(words) == 0
    assert "fixed:3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "--rates", "0"], "--rates"),
        (["plan", "--zones", "0"], "--zones"),
        (["plan", "--utilisation", "1"], "--utilisation"),
        (["plan", "--cell", "0"], "--cell"),
        (["simulate", "--scaler", "cpu:0.7", "--peak", "-1"], "--peak"),
        (["simulate", "--scaler", "mem:1"], "there is no autoscaler"),
        (["simulate", "--scaler", "cpu:0.7", "--trace", "nowhere.csv"], "is no trace"),
        (["simulate", "--scaler", "cpu:0.7", "--least", "0"], "never goes to 0"),
    ],
)
def test_wrong_usage_is_explained(
    words: list[str], said: str, profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "profile.json"
    write_profile(profile, file)
    assert main([*words, "--profile", str(file), "--requests", "200"]) == 2
    assert said in capsys.readouterr().err
