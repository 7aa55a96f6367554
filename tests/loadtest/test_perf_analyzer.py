from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import loadtest
from loadtest import perf_analyzer_install
from loadtest.errors import LoadTestError
from loadtest.perf_analyzer import input_data, read_measurements
from loadtest.perf_analyzer_install import install, mirrors
from tritonforge.server import TritonServer

ROOT = Path(loadtest.__file__).parents[1]

# Written by perf_analyzer 2.60.0.
TABLE = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
2,5571.39,1,124,94,7,72,54,0,258,541,614,1988
1,3591.75,1,99,14,9,85,62,0,256,324,355,827
"""

# Written by apt-get update --print-uris.
URIS = """\
'http://mirror.example/debian/dists/bookworm/InRelease' mirror.example_debian_dists_bookworm_InRelease 0
'http://mirror.example/debian/dists/bookworm-updates/InRelease' mirror.example_debian_dists 0
'http://mirror.example/debian-security/dists/bookworm-security/InRelease' mirror.example_security 0
'https://vendor.example/linux/debian/dists/bookworm/InRelease' vendor.example_linux 0
'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' mirror.example_debian 0
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest.perf_analyzer", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


def test_table_is_read_in_order_of_concurrency() -> None:
    one, two = read_measurements(TABLE)
    assert (one.concurrency, two.concurrency) == (1, 2)
    assert two.texts_per_second == 5571.39
    assert (two.p50_us, two.p99_us, two.queue_us) == (258, 1988, 94)
    assert two.compute_us == 7 + 72 + 54


def test_another_format_is_an_error() -> None:
    with pytest.raises(LoadTestError, match="p99"):
        read_measurements(TABLE.replace("p99 latency", "p99"))


def test_input_data_has_one_step_for_each_text() -> None:
    assert input_data(["a", "b"])["data"][1] == {"text": {"content": ["b"], "shape": [1]}}


def test_mirrors_come_from_apts_own_sources() -> None:
    assert mirrors(URIS, "bookworm") == [
        "http://mirror.example/debian",
        "https://vendor.example/linux/debian",
    ]


def test_missing_apt_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_analyzer_install, "glibc_version", lambda: (2, 36))
    monkeypatch.setattr(perf_analyzer_install, "_fetch_binary", lambda work, target: target.touch())
    monkeypatch.setattr(
        perf_analyzer_install.platform,
        "freedesktop_os_release",
        lambda: {"ID": "debian", "VERSION_CODENAME": "x"},
    )
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(LoadTestError, match="apt-get is not installed"):
        install(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == [], "something half made was left"


def test_missing_pip_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(LoadTestError, match=r"pip could not download.*\n.*ensurepip"):
        install(tmp_path / "cache")


def test_no_glibc_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_analyzer_install.platform, "machine", lambda: "aarch64")
    with pytest.raises(LoadTestError, match="x86-64 Linux"):
        perf_analyzer_install.glibc_version()


@pytest.fixture(scope="session")
def tool() -> Path:
    """The real tool, installed into the project's cache unless it is there."""
    if sys.platform != "linux" or shutil.which("apt-get") is None:
        pytest.skip("perf_analyzer is installed on Debian and Ubuntu only")
    return install(ROOT / perf_analyzer_install.DEFAULT_CACHE)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_real_run(tool: Path, server: TritonServer, protocol: str) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_address
    settings = ["--model", "toy_embedder", "--protocol", protocol, "--url", url, "--window-ms", "500"]
    done = run("run", *settings, "--concurrency", "1:2", "--stability-percent", "500", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [m["concurrency"] for m in report["measurements"]] == [1, 2]
    for measurement in report["measurements"]:
        assert measurement["texts_per_second"] > 0
        assert 0 < measurement["p50_us"] <= measurement["p99_us"]


@pytest.mark.slow
def test_real_run_prints_a_table(tool: Path, server: TritonServer) -> None:
    settings = ["--model", "toy_embedder", "--url", server.grpc_url, "--window-ms", "500"]
    done = run(
        "run", *settings, "--concurrency", "4", "--texts-per-request", "8", "--stability-percent", "500"
    )
    assert done.returncode == 0, done.stderr
    assert "toy_embedder over grpc, 8 texts a request" in done.stdout


@pytest.mark.slow
def test_real_run_on_an_absent_model(tool: Path, server: TritonServer) -> None:
    done = run("run", "--model", "absent", "--url", server.grpc_url)
    assert done.returncode == 1
    assert "unknown model" in done.stderr
    assert "mend:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_installs_from_nothing(tool: Path, tmp_path: Path) -> None:
    done = run("install", "--cache", str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    version = subprocess.run([done.stdout.strip(), "--version"], capture_output=True, text=True, check=True)
    assert "Perf Analyzer" in version.stdout + version.stderr
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [perf_analyzer_install.VERSION]
