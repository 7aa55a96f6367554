"""Makes the peers' virtual environments, and the forms of the model that they load."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import LoadTestError
from loadtest.peers.fastapi_server import ONNX
from loadtest.peers.settings import Setup
from loadtest.peers.system import PROGRAMS, Environment

_MARK = "tritonforge.json"
_INSTALL_S = 3600
_FAILED = "failed"


@dataclass(frozen=True)
class State:
    """What an environment is like.

    Attributes:
        ready: Whether its peer can start.
        reason: Why it is not ready.
        versions: Of the distributions that the page names.
    """

    ready: bool
    reason: str
    versions: dict[str, str]


def state(environment: Environment, setup: Setup) -> State:
    """Look at an environment."""
    mark = setup.python(environment).parents[1] / _MARK
    if not mark.is_file():
        return State(False, "not installed; tritonforge compare install does it", {})
    noted = json.loads(mark.read_text())
    if noted["requirements"] != list(environment.requirements):
        return State(False, "installed for other versions; tritonforge compare install mends it", {})
    if _FAILED in noted:
        return State(False, f"could not be installed: {noted[_FAILED]}", {})
    return State(True, "", noted["versions"])


def install(environment: Environment, setup: Setup, *, again: bool = False) -> State:
    """Make an environment, unless it is there; a failure is noted in it, and told.

    Args:
        environment: Which.
        setup: Where.
        again: Try once more what failed.
    """
    before = state(environment, setup)
    if before.ready or (before.reason.startswith("could not") and not again):
        return before
    folder = setup.python(environment).parents[1]
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    noted: dict[str, object] = {"requirements": list(environment.requirements)}
    python = str(setup.python(environment))
    try:
        _run([sys.executable, "-m", "venv", str(folder)])
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *environment.requirements])
        noted["versions"] = _versions(python, environment.shown)
    except LoadTestError as error:
        noted[_FAILED] = error.what
        folder.mkdir(exist_ok=True)
    (folder / _MARK).write_text(json.dumps(noted, indent=2))
    return state(environment, setup)


def prepare_models(model: Path, setup: Setup, progress: Callable[[str], None]) -> str | None:
    """Lay out the model for the peers: the folder itself, an ONNX form, and a dynamic INT8 one.

    The ONNX forms are made by sentence-transformers, with its documented functions, in the environment of
    the peer that it is served by.

    Args:
        model: Folder of the model, with sentence-transformers' files.
        setup: Where.
        progress: Is told what is done.

    Returns:
        Why there are no ONNX forms; None if there are.
    """
    setup.models.mkdir(parents=True, exist_ok=True)
    link = setup.models / "fp32"
    link.unlink(missing_ok=True)
    link.symlink_to(model.absolute(), target_is_directory=True)
    wanted = [setup.models / "fp32-onnx", setup.models / "int8"]
    made_of = setup.models / "made-of"
    if all(folder.is_dir() for folder in wanted) and made_of.read_text() == str(model.absolute()):
        return None
    if not state(ONNX, setup).ready:
        return f"the ONNX forms are made in the environment {ONNX.name}, which is not ready"
    progress("ONNX forms of the model")
    parts = [folder.with_name(f".{folder.name}") for folder in wanted]
    for folder in (*parts, *wanted):
        shutil.rmtree(folder, ignore_errors=True)
    command = [str(setup.python(ONNX)), str(PROGRAMS / "quantize.py"), str(link), instructions()]
    try:
        _run([*command, *map(str, parts)])
    except LoadTestError as error:
        return error.what
    for part, folder in zip(parts, wanted, strict=True):
        part.rename(folder)
    made_of.write_text(str(model.absolute()))
    return None


def instructions(cpuinfo: str | None = None) -> str:
    """The INT8 form that fits the processor, as sentence-transformers names it."""
    text = Path("/proc/cpuinfo").read_text() if cpuinfo is None else cpuinfo
    flags = set(text.split())
    if "avx512_vnni" in flags:
        return "avx512_vnni"
    return "avx512" if "avx512f" in flags else "avx2"


def unique(environments: Iterable[Environment | None]) -> list[Environment]:
    """The environments without repetition, in order."""
    return list({one.name: one for one in environments if one is not None}.values())


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise LoadTestError(f"took more than {_INSTALL_S} s", where=command[0]) from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        told = next(
            (line for line in reversed(lines) if "error" in line.lower()), (lines or ["no output"])[-1]
        )
        raise LoadTestError(told[:400], where=command[0])


def _versions(python: str, shown: Iterable[str]) -> dict[str, str]:
    code = "import json, importlib.metadata as metadata; print(json.dumps({one.name: one.version "
    code += "for one in metadata.distributions()}))"
    out = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    found = {name.lower().replace("_", "-"): version for name, version in json.loads(out).items()}
    return {name: found[name] for name in shown if name in found}
