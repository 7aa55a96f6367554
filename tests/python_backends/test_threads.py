from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from python_backends import threads


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight hyper-threads on four cores, as the kernel's files describe them."""
    for cpu in range(8):
        folder = tmp_path / "cpu" / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    (tmp_path / "cgroup" / "cpu").mkdir(parents=True)
    monkeypatch.setattr(threads, "_CPU_FOLDER", tmp_path / "cpu")
    monkeypatch.setattr(threads, "_CGROUP_FOLDER", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv(threads.ENVIRONMENT_VARIABLE, raising=False)
    return tmp_path


def test_hyper_threads_of_a_core_count_once(machine: Path) -> None:
    assert threads.physical_cores() == 4


def test_affinity_limits(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 4, 5})
    assert threads.physical_cores() == 2


@pytest.mark.parametrize(("quota", "cores"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 4)])
def test_a_container_quota_limits(machine: Path, quota: str, cores: int) -> None:
    (machine / "cgroup" / "cpu.max").write_text(quota)
    assert threads.physical_cores() == cores


def test_the_tightest_of_nested_groups_counts(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "groups").write_text("0::/system/inner\n")
    monkeypatch.setattr(threads, "_PROCESS_GROUPS", machine / "groups")
    inner = machine / "cgroup" / "system" / "inner"
    inner.mkdir(parents=True)
    (machine / "cgroup" / "cpu.max").write_text("max 100000")
    (inner.parent / "cpu.max").write_text("200000 100000")
    (inner / "cpu.max").write_text("300000 100000")
    assert threads.cpu_quota() == 2
    assert threads.physical_cores() == 2


@pytest.mark.parametrize(("quota", "cores"), [("300000", 3), ("-1", 4)])
def test_a_quota_of_control_groups_version_1_limits(machine: Path, quota: str, cores: int) -> None:
    (machine / "cgroup" / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (machine / "cgroup" / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert threads.physical_cores() == cores


def test_instances_share_the_cores_and_explicit_numbers_win(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert threads.engine_threads(0, instances=2) == 2
    assert threads.engine_threads(0, instances=9) == 1
    assert threads.engine_threads(3, instances=2) == 3
    monkeypatch.setenv(threads.ENVIRONMENT_VARIABLE, "7")
    assert threads.engine_threads(3) == 7
    monkeypatch.setenv(threads.ENVIRONMENT_VARIABLE, "many")
    with pytest.raises(ValueError, match="whole number"):
        threads.engine_threads(3)


def test_this_machine() -> None:
    assert 1 <= threads.physical_cores() <= (psutil.cpu_count(logical=True) or 1)
