"""What a server needs of this machine, each need checked on its own.

:func:`run_checks` gives all of them (``tritonforge doctor``); :func:`require` runs the quick ones whose
failure no server survives, and raises (``tritonforge serve``).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tritonforge.errors import RepositoryError, ServerError
from tritonforge.server.locate import WHEEL, TritonInstallation, libpython_dirs, locate_tritonserver
from tritonforge.server.options import ServerOptions
from tritonforge.server.plans import HOST_CODE_ARGUMENT, PlanIdentity, find_plans, misfits, this_host
from tritonforge.server.ports import why_unavailable
from tritonforge.server.resources import cpu_budget, memory_limit

Status = Literal["ok", "warn", "fail"]

_MIB = 1 << 20
_SHM = Path("/dev/shm")
# The Python backend maps 1 MiB per stub at the start and grows it by the tensors in flight.
_SHM_START_PER_STUB = _MIB
_SHM_GOOD_PER_STUB = 16 * _MIB
_MIN_FILES = 4096
_MIN_DISK = 200 * _MIB
_GOOD_DISK = 2048 * _MIB
_PROBE_TIMEOUT_S = 120

_PROBE = """
import importlib, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
        found[name] = {"version": str(getattr(module, "__version__", "?"))}
    except BaseException as error:
        found[name] = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps({"python": "%d.%d.%d" % sys.version_info[:3], "modules": found}))
"""


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: What was looked at.
        status: ``ok``; ``warn``: a server runs, though worse; ``fail``: it does not.
        detail: What was found.
        mend: The command or step that mends it; None where there is nothing to mend.
    """

    name: str
    status: Status
    detail: str
    mend: str | None = None


def run_checks(options: ServerOptions, repository: Path | None = None) -> list[Check]:
    """Run every check.

    Args:
        options: Ports and host to check.
        repository: Model repository, for the disk and the number of stubs; it need not exist.
    """
    return [
        *_essential(options, repository),
        *_check_engines(),
        _check_cpus(),
        _check_memory(),
        _check_files(),
        _check_disk(repository or Path.cwd()),
        _check_gpu(),
        _check_optional("perf_analyzer", "`tritonforge loadtest` installs one of its own"),
        _check_optional("envoy", "the gateway wants it: pip install 'tritonforge[gateway]'"),
        _check_optional("redis-server", "limits shared by several gateways want one, here or elsewhere"),
    ]


def require(options: ServerOptions, repository: Path | None = None) -> None:
    """Run the checks without which no server starts.

    Raises:
        ServerError: The first that fails.
    """
    for check in _essential(options, repository):
        if check.status == "fail":
            raise ServerError(check.detail, where=check.name, mend=check.mend)


def _essential(options: ServerOptions, repository: Path | None) -> Iterator[Check]:
    try:
        installation = locate_tritonserver()
    except ServerError as error:
        yield Check("tritonserver", "fail", error.what, error.mend)
    else:
        yield _check_binary(installation)
        yield _check_stub(installation)
        yield _check_numpy(installation)
    yield _check_shm(_count_stubs(repository))
    yield from _check_ports(options)
    if repository is not None:
        yield from _check_plans(options, repository)


def _check_binary(installation: TritonInstallation) -> Check:
    name = "tritonserver"
    environment = installation.environment(os.environ)
    command = [str(installation.binary), "--help"]  # ends with status 1, but only after all libraries loaded
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name, "fail", f"{installation.binary} does not run: {error}", _reinstall(installation))
    if "--model-repository" not in done.stdout + done.stderr:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"status {done.returncode}"]
        return Check(
            name, "fail", f"{installation.binary} does not run: {reason[0]}", _reinstall(installation)
        )
    return Check(
        name, "ok", f"{installation.kind}, {installation.version or 'version unknown'}: {installation.binary}"
    )


def _check_stub(installation: TritonInstallation) -> Check:
    """Run the stub without arguments: it complains about them once its libpython is loaded."""
    name = "Python backend stub"
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    if installation.stub is None:
        what = f"no stub for Python {minor}" if installation.kind == "embedded" else "no Python backend"
        return Check(name, "fail", what, "python3.11 -m venv .venv, and install tritonforge there")
    environment = installation.environment(os.environ)
    try:
        done = subprocess.run(
            [str(installation.stub)], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name, "fail", f"{installation.stub} does not run: {error}", _reinstall(installation))
    if done.returncode == 127 or "shared librar" in done.stderr:
        lines = done.stderr.strip().splitlines() or ["it does not run"]
        mend = (
            f"take a Python with a shared libpython: apt-get install libpython{minor}, or "
            f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {minor}"
        )
        return Check(name, "fail", lines[-1].removeprefix(f"{installation.stub}: "), mend)
    if installation.kind == "system":
        return Check(name, "ok", str(installation.stub))
    if not libpython_dirs():
        return Check(
            name,
            "warn",
            f"this Python {minor} has no shared libpython; the stub runs on another one of the system",
            f"apt-get install libpython{minor}, of the same patch version as {sys.executable}",
        )
    return Check(name, "ok", f"Python {minor}, libpython in {libpython_dirs()[0]}")


def _check_numpy(installation: TritonInstallation) -> Check:
    name = "numpy of the stubs"
    found = _probe(installation, ["numpy"])
    if "error" in found:
        return Check(name, "fail", found["error"], f"make {installation.python} a working interpreter")
    numpy = found["modules"]["numpy"]
    pip = f'{installation.python} -m pip install "numpy>=1.26,<2"'
    if "error" in numpy:
        return Check(name, "fail", f"cannot be imported: {numpy['error']}", pip)
    if int(numpy["version"].split(".")[0]) >= 2 and installation.kind == "embedded":
        return Check(name, "fail", f"{numpy['version']}: the first text input would kill the stub", pip)
    return Check(name, "ok", numpy["version"])


def _check_engines() -> Iterator[Check]:
    modules = ("tokenizers", "onnxruntime", "openvino")
    try:
        installation = locate_tritonserver()
    except ServerError:
        return
    found = _probe(installation, modules)
    if "error" in found:
        return
    broken = {name: found["modules"][name].get("error") for name in modules}
    no_engine = bool(broken["onnxruntime"] and broken["openvino"])
    for name in modules:
        pip = f"{installation.python} -m pip install {name}"
        if broken[name] is None:
            yield Check(name, "ok", found["modules"][name]["version"])
        elif name == "tokenizers" or no_engine:
            yield Check(name, "fail", f"cannot be imported: {broken[name]}", pip)
        else:
            yield Check(name, "warn", f"cannot be imported: {broken[name]}; the other engine can", pip)


def _check_shm(stubs: int) -> Check:
    name = str(_SHM)
    mend = "mount -o remount,size=1G /dev/shm; in a container: docker run --shm-size=1g"
    try:
        free = shutil.disk_usage(_SHM).free
    except OSError as error:
        return Check(name, "fail", f"the Python backend needs it: {error.strerror}", mend)
    if not os.access(_SHM, os.W_OK):
        return Check(
            name, "fail", "the Python backend needs it, and it cannot be written", "chmod 1777 /dev/shm"
        )
    need, good = stubs * _SHM_START_PER_STUB, stubs * _SHM_GOOD_PER_STUB
    detail = f"{_mib(free)} free; {stubs} stubs need {_mib(need)} to start, and {_mib(good)} under load"
    if free < need:
        return Check(name, "fail", detail, mend)
    return Check(name, "warn", detail, mend) if free < good else Check(name, "ok", detail)


def _check_ports(options: ServerOptions) -> Iterator[Check]:
    ports = {"http": options.http_port, "grpc": options.grpc_port, "metrics": options.metrics_port}
    for kind, port in ports.items():
        if port == 0:
            continue
        name = f"{kind} port {port}"
        reason = why_unavailable(options.host, port)
        if reason is None:
            yield Check(name, "ok", f"free on {options.host}")
        else:
            yield Check(
                name,
                "fail",
                f"{options.host}:{port}: {reason}",
                f"end that process, or take another --{kind}-port",
            )


def _check_plans(options: ServerOptions, repository: Path) -> Iterator[Check]:
    """Whether the TensorRT plans of a repository load here; Triton would say less of it, and later."""
    plans = find_plans(repository, options.models)
    allows_host_code = HOST_CODE_ARGUMENT in options.extra_args
    for model, path in plans.items():
        name = f"plan of {model}"
        try:
            identity = PlanIdentity.read(path)
        except RepositoryError as error:
            yield Check(name, "fail", error.what, error.mend)
            continue
        found = list(misfits(identity, this_host(), allows_host_code=allows_host_code))
        for misfit in found:
            yield Check(name, "fail" if misfit.fatal else "warn", misfit.what, misfit.mend)
        if not found:
            yield Check(name, "ok", f"TensorRT {identity.tensorrt}, {identity.precision}, for {identity.gpu}")


def _check_cpus() -> Check:
    budget = cpu_budget()
    quota = "no cgroup limit" if budget.quota is None else f"cgroup limit {budget.quota:g} CPUs"
    detail = (
        f"{budget.physical} physical cores, {budget.logical} threads, {budget.allowed} allowed, {quota}: "
        f"{budget.threads} engine threads"
    )
    if budget.quota is not None and budget.quota < 1:
        return Check("CPU", "warn", detail, "grant at least one CPU: docker run --cpus=2")
    return Check("CPU", "ok", detail)


def _check_memory() -> Check:
    limit = memory_limit()
    detail = f"{_mib(limit)} usable"
    if limit < 1024 * _MIB:
        return Check("memory", "warn", detail, "grant at least 1 GiB: docker run --memory=2g")
    return Check("memory", "ok", detail)


def _check_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    detail = "unlimited" if unlimited else f"{soft} (hard limit {hard})"
    if unlimited or soft >= _MIN_FILES:
        return Check("open files", "ok", detail)
    return Check("open files", "warn", f"{detail}; each connection takes one", "ulimit -n 65536")


def _check_disk(path: Path) -> Check:
    folder = path.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{_mib(free)} free at {folder}"
    mend = "free some space, or put the repository elsewhere with --repository"
    if free < _MIN_DISK:
        return Check("disk", "fail", detail, mend)
    return Check("disk", "warn", detail, mend) if free < _GOOD_DISK else Check("disk", "ok", detail)


def _check_gpu() -> Check:
    smi = shutil.which("nvidia-smi")
    if smi is not None:
        query = [smi, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Check("GPU", "warn", f"nvidia-smi does not answer: {error}", "nvidia-smi")
        if done.returncode == 0 and done.stdout.strip():
            return Check("GPU", "ok", "; ".join(done.stdout.strip().splitlines()))
    return Check("GPU", "ok", "none; models run on the CPU")


def _check_optional(program: str, wanted_by: str) -> Check:
    """A program without which all but one thing works."""
    beside = Path(sys.prefix, "bin", program)
    found = shutil.which(program) or (str(beside) if beside.is_file() else None)
    return Check(program, "ok", found or f"not installed; only {wanted_by}")


def _probe(installation: TritonInstallation, modules: Iterable[str]) -> dict[str, Any]:
    """Import modules in the interpreter whose packages the stubs see."""
    command = [str(installation.python), "-c", _PROBE, *modules]
    environment = installation.environment(os.environ)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return {"error": f"{installation.python} does not run: {error}"}
    return answer


def _count_stubs(repository: Path | None) -> int:
    """Guess a stub for each Python model of the repository; two where there is none yet."""
    if repository is None or not repository.is_dir():
        return 2
    return max(2, sum(1 for folder in repository.iterdir() if any(folder.glob("*/model.py"))))


def _reinstall(installation: TritonInstallation) -> str:
    if installation.kind == "system":
        return "use the image nvcr.io/nvidia/tritonserver as it is"
    return f"{installation.python} -m pip install --force-reinstall --no-deps {WHEEL}"


def _mib(count: int) -> str:
    return f"{count / _MIB:,.0f} MiB" if count < 10240 * _MIB else f"{count / 1024 / _MIB:,.0f} GiB"
