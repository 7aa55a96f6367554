"""The peers: their programs, their environments, and what becomes of one that does not start."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from loadtest.errors import LoadTestError
from loadtest.peers import environments
from loadtest.peers.registry import PEERS, find_peers
from loadtest.peers.runner import order
from loadtest.peers.serving import serve
from loadtest.peers.settings import Setup
from loadtest.peers.system import PROGRAMS, Environment, Place, Process, System
from tritonforge.errors import UsageError


def process_of(command: Sequence[str]) -> System:
    """A system of ours that is one command."""

    def processes(place: Place) -> Sequence[Process]:
        ready = f"http://127.0.0.1:{place.ports['http']}/"
        return [Process([part.replace("PORT", str(place.ports["http"])) for part in command], ready)]

    return System("one", "One", "fp32", "none", "none", (), processes)


@pytest.mark.parametrize("program", sorted(PROGRAMS.glob("*.py")), ids=lambda path: path.stem)
def test_programs_are_python(program: Path) -> None:
    compile(program.read_text(encoding="utf-8"), str(program), "exec")


def test_every_requirement_is_pinned_and_names_are_unique() -> None:
    wanted = environments.unique(peer.environment for peer in PEERS)
    for environment in wanted:
        assert all(requirement.count("==") == 1 for requirement in environment.requirements), environment
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    assert len({way.name for peer in PEERS for way in peer.ways}) == len(PEERS)
    for peer in PEERS:  # peers of one environment agree on it, or one would undo what the other needs
        assert peer.environment in wanted


def test_peers_are_found_by_how_their_names_begin() -> None:
    assert [peer.name for peer in find_peers(["litserve"])] == ["litserve-fp32", "litserve-int8"]
    assert [peer.name for peer in find_peers(["fastapi-int8"])] == ["fastapi-int8", "fastapi-int8-workers"]
    assert find_peers(None) == PEERS
    assert find_peers(["none"]) == ()
    with pytest.raises(UsageError, match=r"'fast'.*\n.*fastapi-fp32"):
        find_peers(["fast"])


def test_every_second_round_goes_backwards() -> None:
    three = PEERS[:3]
    assert order(three, 1) == order(three, 3) == list(three)
    assert order(three, 2) == list(reversed(three))


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("flags : fpu avx2 avx512f avx512_vnni", "avx512_vnni"),
        ("flags : avx2 avx512f avx512bw", "avx512"),
        ("flags : fpu avx2", "avx2"),
    ],
)
def test_the_int8_form_fits_the_processor(flags: str, wanted: str) -> None:
    assert environments.instructions(flags) == wanted


def test_an_environment_that_cannot_be_made_says_why_and_is_not_tried_each_time(tmp_path: Path) -> None:
    setup = Setup(1, tmp_path / "peers", tmp_path / "root")
    environment = Environment("broken", (f"{tmp_path}/absent-1.0-py3-none-any.whl",), ("absent",))
    assert "compare install" in environments.state(environment, setup).reason
    found = environments.install(environment, setup)
    assert not found.ready
    assert found.reason.startswith("could not be installed: ERROR")
    assert "absent-1.0" in found.reason
    python = setup.python(environment)
    python.unlink()
    assert environments.install(environment, setup) == found
    assert not python.exists()  # it was not made again
    changed = replace(environment, requirements=("other==1",))
    assert "other versions" in environments.state(changed, setup).reason


def test_a_ready_environment_tells_its_versions(tmp_path: Path) -> None:
    setup = Setup(1, tmp_path)
    environment = Environment("good", ("httpx==1",), ("httpx",))
    folder = setup.python(environment).parents[1]
    folder.mkdir()
    mark = {"requirements": ["httpx==1"], "versions": {"httpx": "1"}}
    (folder / "tritonforge.json").write_text(json.dumps(mark))
    found = environments.state(environment, setup)
    assert (found.ready, found.versions) == (True, {"httpx": "1"})


def test_a_server_that_dies_is_told_with_its_last_line(tmp_path: Path) -> None:
    system = process_of([sys.executable, "-c", "import sys; sys.exit('no such model')"])
    with (
        pytest.raises(LoadTestError, match="status 1 before it served: no such model"),
        serve(system, Setup(1, tmp_path, tmp_path)),
    ):
        pass


def test_a_server_that_never_serves_is_ended(tmp_path: Path) -> None:
    system = process_of(["sh", "-c", "echo $$; exec sleep 100"])
    setup = Setup(1, tmp_path, tmp_path)
    with pytest.raises(LoadTestError, match="was not ready after 2 s"), serve(system, setup, timeout=2.0):
        pass
    pid = int((setup.work(system) / "log").read_text())
    assert not psutil.pid_exists(pid)


def test_a_system_ends_with_all_that_it_started(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("ready")
    script = (
        "import os, subprocess, sys, http.server as h\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "h.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), h.SimpleHTTPRequestHandler).serve_forever()\n"
    )
    with serve(process_of([sys.executable, "-c", script, "PORT"]), Setup(1, tmp_path, tmp_path)) as running:
        family = running.family()
        assert len(family) == 2
        assert running.cpu_seconds() > 0
    assert not [process for process in family if process.is_running()]
