from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tritonforge.errors import RepositoryError, ServerError
from tritonforge.server import ServerOptions, checks, plans
from tritonforge.server.plans import (
    HOST_CODE_ARGUMENT,
    Gpu,
    Host,
    PlanIdentity,
    container_for,
    find_plans,
    misfits,
)

L4 = Gpu("NVIDIA L4", "8.9", "580.95")
PROFILES = [{"input_ids": [[1], [44], [256]]}]
IDENTITY = PlanIdentity("11.1.0.106", "NVIDIA L4", "8.9", "580.95", "int8", "none", False, PROFILES)


def told(identity: PlanIdentity, host: Host, **keys: Any) -> list[tuple[bool, str]]:
    return [(misfit.fatal, misfit.what) for misfit in misfits(identity, host, **keys)]


def publish(repository: Path, identity: PlanIdentity, version: int = 1) -> Path:
    folder = repository / "toy_engine" / str(version)
    folder.mkdir(parents=True)
    identity.write(folder)
    (repository / "toy_engine" / "config.pbtxt").write_text('name: "toy_engine"')
    return folder


def test_it_fits_where_it_was_built() -> None:
    assert told(IDENTITY, Host("11.1.0.106", (L4,))) == []


@pytest.mark.parametrize("here", ["11.1.0.107", "11.2.1.0", "11.0.0.114", "10.16.1.11"])
def test_another_version(here: str) -> None:
    ((fatal, what),) = told(IDENTITY, Host(here, (L4,)))
    assert fatal
    assert f"built by TensorRT 11.1.0.106 and loads in that version only; here is {here}" in what
    (misfit,) = misfits(IDENTITY, Host(here, (L4,)))
    assert "nvcr.io/nvidia/tritonserver:26.07-py3" in misfit.mend


@pytest.mark.parametrize(
    ("built", "here", "loads"),
    [
        ("11.1.0.106", "11.2.1.0", True),
        ("11.1.0.106", "11.1.0.106", True),
        ("11.1.0.106", "11.0.0.114", False),  # only forward
        ("10.16.0.72", "11.1.0.106", True),
        ("8.6.1.6", "11.1.0.106", False),
    ],
)
def test_a_version_compatible_plan(built: str, here: str, loads: bool) -> None:
    identity = dataclasses.replace(IDENTITY, tensorrt=built, version_compatible=True)
    assert bool(told(identity, Host(here, (L4,)), allows_host_code=True)) != loads
    if loads:
        (misfit,) = misfits(identity, Host(here, (L4,)))
        assert misfit.fatal
        assert HOST_CODE_ARGUMENT in misfit.mend


@pytest.mark.parametrize(
    ("compatibility", "gpu", "outcome"),
    [
        ("none", Gpu("NVIDIA A100", "8.0", "580"), "fails"),
        ("none", Gpu("NVIDIA RTX 4090", "8.9", "580"), "slower"),
        ("same_compute_capability", Gpu("NVIDIA RTX 4090", "8.9", "580"), "fits"),
        ("same_compute_capability", Gpu("NVIDIA A100", "8.0", "580"), "fails"),
        ("ampere_plus", Gpu("NVIDIA A100", "8.0", "580"), "fits"),
        ("ampere_plus", Gpu("NVIDIA B200", "10.0", "580"), "fits"),
        ("ampere_plus", Gpu("Tesla T4", "7.5", "580"), "fails"),
    ],
)
def test_another_gpu(compatibility: str, gpu: Gpu, outcome: str) -> None:
    identity = dataclasses.replace(IDENTITY, hardware_compatibility=compatibility)
    found = [fatal for fatal, _ in told(identity, Host("11.1.0.106", (gpu,)))]
    assert found == {"fits": [], "slower": [False], "fails": [True]}[outcome]


def test_every_visible_gpu_counts() -> None:
    ((fatal, what),) = told(IDENTITY, Host("11.1.0.106", (L4, Gpu("NVIDIA A100", "8.0", "580"))))
    assert fatal
    assert "NVIDIA A100 has 8.0" in what


def test_neither_tensorrt_nor_gpu() -> None:
    texts = [what for _, what in told(IDENTITY, Host(None, ()))]
    assert "there is no TensorRT here" in texts[0]
    assert "there is no GPU here" in texts[1]


@pytest.mark.parametrize(
    ("version", "month"),
    [
        ("10.9.0.34", "25.03"),
        ("10.16.0.72", "26.03"),
        ("11.0.0.114", "26.06"),
        ("11.1.0.106", "26.07"),
        ("11.2.1.0", "26.08"),
    ],
)
def test_containers(version: str, month: str) -> None:
    assert f"tritonserver:{month}-py3" in container_for(version)
    assert f"tensorrt:{month}-py3" in container_for(version)


@pytest.mark.parametrize("version", ["11.4.0.106", "10.16.1.11", "10.90.0.1", "11.1.0.107"])
def test_an_unknown_version_says_how_to_look(version: str) -> None:
    assert "printenv TRT_VERSION" in container_for(version)


@pytest.mark.parametrize(
    ("variable", "expected"), [("11.1.0.106", "11.1.0.106"), ("11.1.0.106+cuda13.1", "11.1.0.106")]
)
def test_the_image_s_own_version(monkeypatch: pytest.MonkeyPatch, variable: str, expected: str) -> None:
    monkeypatch.setenv("TRT_VERSION", variable)
    assert plans.tensorrt_version() == expected


def test_identities_are_read_back(tmp_path: Path) -> None:
    IDENTITY.write(tmp_path)
    assert PlanIdentity.read(tmp_path / "identity.json") == IDENTITY


@pytest.mark.parametrize(
    "damage",
    [
        {"tensorrt": None},
        {"tensorrt": "eleven"},
        {"compute_capability": 8.9},
        {"version_compatible": "no"},
        {"profiles": {}},
    ],
)
def test_a_damaged_identity_is_said_so(tmp_path: Path, damage: dict[str, Any]) -> None:
    path = tmp_path / "identity.json"
    path.write_text(json.dumps({**dataclasses.asdict(IDENTITY), **damage}))
    with pytest.raises(RepositoryError, match="identity of the plan cannot be read"):
        PlanIdentity.read(path)


def test_the_newest_version_counts(tmp_path: Path) -> None:
    publish(tmp_path, dataclasses.replace(IDENTITY, tensorrt="10.9.0.34"), 9)
    newest = publish_again = tmp_path / "toy_engine" / "10"
    publish_again.mkdir()
    IDENTITY.write(publish_again)
    (tmp_path / ".staging-toy-x" / "toy_engine" / "1").mkdir(parents=True)
    assert find_plans(tmp_path) == {"toy_engine": newest / "identity.json"}
    assert find_plans(tmp_path, ["other"]) == {}
    assert find_plans(tmp_path / "absent") == {}
    # From TensorRT back to the CPU: the version that is loaded has no plan.
    (tmp_path / "toy_engine" / "11").mkdir()
    assert find_plans(tmp_path) == {}


@pytest.fixture
def options() -> ServerOptions:
    return ServerOptions(http_port=0, grpc_port=0, metrics_port=0)


def test_serve_refuses_a_plan_of_another_version(
    tmp_path: Path, options: ServerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, IDENTITY)
    monkeypatch.setenv("TRT_VERSION", "11.2.1.0")
    with pytest.raises(ServerError, match=r"here is 11\.2\.1\.0") as error:
        checks.require(options, tmp_path)
    assert error.value.where == "plan of toy_engine"
    assert "26.07-py3" in str(error.value.mend)
    # Unless it is not to be loaded.
    checks.require(options.model_copy(update={"models": ("another",)}), tmp_path)


def test_doctor_tells_of_each_plan(
    tmp_path: Path, options: ServerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, IDENTITY)
    here = Host("11.1.0.106", (L4,))
    monkeypatch.setattr(checks, "this_host", lambda: here)
    (check,) = checks._check_plans(options, tmp_path)
    assert (check.name, check.status) == ("plan of toy_engine", "ok")
    assert "TensorRT 11.1.0.106, int8, for NVIDIA L4" in check.detail
    (tmp_path / "toy_engine" / "1" / "identity.json").write_text("{")
    (damaged,) = checks._check_plans(options, tmp_path)
    assert (damaged.status, damaged.mend) == ("fail", "build the plan again")


def test_host_code_must_be_allowed_by_name(
    tmp_path: Path, options: ServerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, dataclasses.replace(IDENTITY, version_compatible=True))
    monkeypatch.setattr(checks, "this_host", lambda: Host("11.2.1.0", (L4,)))
    (refused,) = checks._check_plans(options, tmp_path)
    assert refused.status == "fail"
    allowed = options.model_copy(update={"extra_args": (HOST_CODE_ARGUMENT,)})
    (fine,) = checks._check_plans(allowed, tmp_path)
    assert fine.status == "ok"


def test_gpus_as_nvidia_smi_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's form of output, from a script in its place: this machine may have no GPU."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\necho "NVIDIA H100 80GB HBM3, 9.0, 580.95.05"\necho "$@" >&2\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    plans.visible_gpus.cache_clear()
    assert plans.visible_gpus() == (Gpu("NVIDIA H100 80GB HBM3", "9.0", "580.95.05"),)
    plans.visible_gpus.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert plans.visible_gpus() == ()
    plans.visible_gpus.cache_clear()
