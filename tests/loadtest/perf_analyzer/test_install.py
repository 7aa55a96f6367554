from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.errors import LoadTestError
from loadtest.perf_analyzer import install as installing
from loadtest.perf_analyzer.install import install, mirrors

# Written by apt-get update --print-uris.
URIS = """\
'http://mirror.example/debian/dists/bookworm/InRelease' mirror.example_debian_dists_bookworm_InRelease 0
'http://mirror.example/debian/dists/bookworm-updates/InRelease' mirror.example_debian_dists 0
'http://mirror.example/debian-security/dists/bookworm-security/InRelease' mirror.example_security 0
'https://vendor.example/linux/debian/dists/bookworm/InRelease' vendor.example_linux 0
'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' mirror.example_debian 0
"""


def test_mirrors_come_from_apts_own_sources() -> None:
    assert mirrors(URIS, "bookworm") == [
        "http://mirror.example/debian",
        "https://vendor.example/linux/debian",
    ]


def test_missing_apt_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "glibc_version", lambda: (2, 36))
    monkeypatch.setattr(installing, "_fetch_binary", lambda work, target: target.touch())
    monkeypatch.setattr(
        installing.platform,
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
    monkeypatch.setattr(installing.platform, "machine", lambda: "aarch64")
    with pytest.raises(LoadTestError, match="x86-64 Linux"):
        installing.glibc_version()


@pytest.mark.slow
def test_installs_from_nothing(tool: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtest.perf_analyzer.install", str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    version = subprocess.run([done.stdout.strip(), "--version"], capture_output=True, text=True, check=True)
    assert "Perf Analyzer" in version.stdout + version.stderr
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [installing.VERSION]
