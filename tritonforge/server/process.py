"""Runs one tritonserver process on a model repository.

::

    with TritonServer(Path("model_repository"), ServerOptions(http_port=0)) as server:
        httpx.get(f"{server.http_url}/v2/models/minilm/ready")
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import httpx
import psutil

from tritonforge.errors import ServerError
from tritonforge.server.caches import cache_arguments
from tritonforge.server.drain import Drain
from tritonforge.server.json_logs import JsonLines
from tritonforge.server.locate import TritonInstallation, locate_tritonserver
from tritonforge.server.logs import LogPump, decisive_lines
from tritonforge.server.memory import MIB, MemoryGuard, check_limit, limit_of, limit_process
from tritonforge.server.options import ENGINE_THREADS_VARIABLE, ServerOptions
from tritonforge.server.ports import connect_host, free_ports
from tritonforge.server.repository import find_models
from tritonforge.server.tracing import trace_arguments, trace_environment
from tritonforge.server.watchdog import StubWatchdog, scan_stubs

logger = logging.getLogger(__name__)

_SHM = Path("/dev/shm")  # where the Python backend maps its regions; Triton takes no other place
_FORWARDED = "^(x-request-id|traceparent)$"
_POLL_S = 0.05
_END_GRACE_S = 3.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class TritonServer:
    """One tritonserver process, as a context manager or by :meth:`start` and :meth:`stop`.

    Args:
        repository: The model repository.
        options: Ports, models and the rest.
        log_sink: Where tritonserver's output goes; None: standard error.
        log_json: Make JSON of it (:mod:`tritonforge.server.json_logs`); else it passes byte for byte.
        environment: Variables for the server and its stubs over those of this process.
        die_with_caller: Stop tritonserver when the *thread* that calls :meth:`start` ends, also by
            SIGKILL; for programs that start it in their main thread.

    Attributes:
        repository: The model repository, absolute.
        options: The options as given; ports that were 0 are in the URLs.
        models: Names of the models that are loaded, sorted.
        memory_limit_mib: What server and stubs may hold together; None: as much as there is.
    """

    def __init__(
        self,
        repository: Path,
        options: ServerOptions | None = None,
        *,
        log_sink: BinaryIO | None = None,
        log_json: bool = False,
        environment: Mapping[str, str] | None = None,
        die_with_caller: bool = False,
    ) -> None:
        """Keep the settings; nothing is started yet."""
        self.repository = repository.resolve()
        self.options = options or ServerOptions()
        self.models: tuple[str, ...] = ()
        self.memory_limit_mib: int | None = None
        self._log_sink = log_sink
        self._log_json = log_json
        self._die_with_caller = die_with_caller
        self._extra_environment = dict(environment or {})
        self._ports = (self.options.http_port, self.options.grpc_port, self.options.metrics_port)
        self._process: subprocess.Popen[bytes] | None = None
        self._pump: LogPump | None = None
        self._watchdog: StubWatchdog | None = None
        self._guard: MemoryGuard | None = None
        self._work: Path | None = None
        self._shm_prefix = ""

    @property
    def http_url(self) -> str:
        """Base URL of the HTTP endpoint, e.g. ``http://127.0.0.1:8000``."""
        return f"http://{self.http_address}"

    @property
    def http_address(self) -> str:
        """``host:port`` of the HTTP endpoint, as tritonclient takes it."""
        return f"{connect_host(self.options.host)}:{self._ports[0]}"

    @property
    def grpc_url(self) -> str:
        """``host:port`` of the gRPC endpoint, as gRPC clients take it."""
        return f"{connect_host(self.options.host)}:{self._ports[1]}"

    @property
    def metrics_url(self) -> str:
        """URL of the Prometheus metrics, ``/metrics`` included."""
        return f"http://{connect_host(self.options.host)}:{self._ports[2]}/metrics"

    @property
    def pid(self) -> int:
        """Process id of tritonserver.

        Raises:
            ServerError: It was not started.
        """
        return self._running().pid

    @property
    def returncode(self) -> int | None:
        """Exit status of tritonserver; None while it runs or before it was started."""
        return self._process.poll() if self._process else None

    def log_tail(self) -> list[str]:
        """Return the last lines of tritonserver's output, oldest first."""
        return self._pump.tail() if self._pump else []

    def __enter__(self) -> TritonServer:
        """Start, and wait until all models are ready."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def start(self, timeout: float = 300.0) -> None:
        """Start tritonserver and wait until it and all its models are ready.

        Args:
            timeout: Seconds to wait.

        Raises:
            RepositoryError: There is nothing to load.
            UsageError: Options do not go together.
            ServerError: tritonserver was not found, ended, or was not ready in time; the error
                carries the lines of its output that say why. Nothing is left running then.
        """
        if self._process is not None and self._process.poll() is None:
            raise ServerError("the server is running already", where=f"pid {self._process.pid}")
        self.models = find_models(self.repository, self.options.models)
        self.memory_limit_mib = self._memory_limit()
        installation = locate_tritonserver()
        attempts = 3 if 0 in self._ports else 1
        for attempt in range(1, attempts + 1):
            try:
                self._spawn(installation)
                self.wait_ready(timeout)
                break
            except ServerError:
                taken = any("already in use" in line for line in self.log_tail())
                self.stop()
                # Another process may take a free port between the choice and Triton's bind.
                if attempt == attempts or not taken:
                    raise
            except BaseException:
                self.stop()
                raise
        self._watchdog = StubWatchdog(self.pid, self.http_url)
        self._watchdog.start()

    def wait_ready(self, timeout: float = 300.0) -> None:
        """Wait until the server is ready, which includes every model it loads.

        Raises:
            ServerError: It ended meanwhile, or ``timeout`` seconds passed.
        """
        process = self._running()
        deadline = time.monotonic() + timeout
        with httpx.Client(base_url=self.http_url, timeout=5.0, trust_env=False) as client:
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    raise self._death(process.returncode)
                try:
                    if client.get("/v2/health/ready").is_success:
                        return
                except httpx.TransportError:  # not listening yet: it listens once the models are loaded
                    pass
                time.sleep(_POLL_S)
        raise ServerError(
            f"tritonserver was not ready after {timeout:.0f} s; its last lines:\n"
            + "\n".join(f"  {line}" for line in self.log_tail()[-8:]),
            where=str(self.repository),
            mend="give it more time, or see what it is doing with --log-verbose 1",
        )

    def stop(self) -> int:
        """Stop the server: it takes no new connections, requests in flight are answered, models unloaded.

        Neither idle connections nor dead stubs are waited for (:mod:`tritonforge.server.drain`).

        Returns:
            Exit status: 0 if every accepted request was answered, also when nothing was running.
        """
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        if self._guard is not None:
            self._guard.stop()
            self._guard = None
        process = self._process
        if process is None:
            return 0
        status = process.poll()
        if status is None:
            status = self._drain_and_end(process)
        self._clean_up()
        return status

    def kill(self) -> None:
        """End tritonserver at once; requests in flight are lost. :meth:`stop` still has to follow."""
        if self._process is not None:
            self._process.kill()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError("the server was not started", mend="call start() first")
        return self._process

    def _spawn(self, installation: TritonInstallation) -> None:
        self._choose_ports()
        self._work = Path(tempfile.mkdtemp(prefix="tritonforge-server-"))
        self._shm_prefix = f"tritonforge_{uuid.uuid4().hex[:12]}_"
        environment = installation.environment({**os.environ, **self._extra_environment})
        command = self._command(installation, installation.lay_out_backends(self._work))
        command += [*trace_arguments(self.options, environment), *self.options.extra_args]
        environment |= trace_environment(self.options, environment)
        if self.options.engine_threads is not None:
            environment[ENGINE_THREADS_VARIABLE] = str(self.options.engine_threads)
        logger.debug("starting %s", command)
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C goes to every process of a terminal's group; only this one shall decide when to stop.
            start_new_session=True,
            preexec_fn=end_with_parent if self._die_with_caller else None,
        )
        if self.memory_limit_mib is not None:
            limit_process(self._process.pid, self.memory_limit_mib * MIB)
            self._guard = MemoryGuard(self._process.pid, self.memory_limit_mib * MIB)
            self._guard.start()
        assert self._process.stdout is not None
        sink = self._log_sink or sys.stderr.buffer
        lines = JsonLines() if self._log_json else None
        # Popen's pipe is read in binary.
        self._pump = LogPump(self._process.stdout, sink, lines=lines)  # type: ignore[arg-type]

    def _memory_limit(self) -> int | None:
        asked = self.options.memory_limit_mib
        if asked is None:
            return limit_of(self.repository, self.models)
        if asked:
            check_limit(asked)
        return asked or None

    def _choose_ports(self) -> None:
        given = (self.options.http_port, self.options.grpc_port, self.options.metrics_port)
        chosen = iter(free_ports(given.count(0), self.options.host))
        http, grpc, metrics = (port or next(chosen) for port in given)
        self._ports = (http, grpc, metrics)

    def _command(self, installation: TritonInstallation, backends: Path | None) -> list[str]:
        options = self.options
        http, grpc, metrics = self._ports
        threads = options.http_threads or max(2, min(8, len(os.sched_getaffinity(0))))
        command = [
            str(installation.binary),
            f"--model-repository={self.repository}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in self.models),
            "--strict-readiness=true",
            "--disable-auto-complete-config",  # each guess would cost a stub; our configurations are complete
            f"--exit-timeout-secs={options.exit_timeout_s}",
            f"--http-address={options.host}",
            f"--http-port={http}",
            f"--http-thread-count={threads}",
            f"--grpc-address={options.host}",
            f"--grpc-port={grpc}",
            f"--metrics-address={options.host}",
            f"--metrics-port={metrics}",
            "--metrics-config=counter_latencies=true",
            # To be given once: of two the first holds.
            f"--metrics-config=summary_latencies={str(options.latency_summaries).lower()}",
            # From Triton 24.11 on: time to the first response of decoupled models. 2.51 ignores it.
            "--metrics-config=histogram_latencies=true",
            f"--log-verbose={options.log_verbose}",
            f"--log-info={str(options.log_info).lower()}",
            f"--log-warning={str(options.log_warning).lower()}",
            f"--log-error={str(options.log_error).lower()}",
            # So that backends can name the request in their logs (python_backends.logs).
            f"--http-header-forward-pattern=(?i){_FORWARDED}",
            f"--grpc-header-forward-pattern={_FORWARDED}",
            # A name of its own, so that the regions of a server that was killed can be removed.
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
        ]
        if backends is not None:
            command.append(f"--backend-directory={backends}")
        command += cache_arguments(options, installation, self.repository, self.models)
        return command

    def _drain_and_end(self, process: subprocess.Popen[bytes]) -> int:
        deadline = time.monotonic() + self.options.exit_timeout_s
        with Drain(self.http_url) as drain:
            process.send_signal(signal.SIGTERM)
            drained = drain.run(deadline, lambda: _only_dead_stubs(process.pid))
        try:
            # Past the deadline tritonserver ends itself; drained, it may still wait for idle connections.
            return process.wait(_END_GRACE_S if drained else self.options.exit_timeout_s + _END_GRACE_S)
        except subprocess.TimeoutExpired:
            if not drained:
                logger.error("tritonserver did not end in its exit timeout; killing it")
            process.kill()
            status = process.wait()
            return 0 if drained else status

    def _clean_up(self) -> None:
        self._end_orphans()
        if self._pump is not None:
            self._pump.join(timeout=5.0)
        for region in _SHM.glob(f"{self._shm_prefix}*") if self._shm_prefix else ():
            region.unlink(missing_ok=True)
        if self._work is not None:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work = None
        self._process = None

    def _end_orphans(self) -> None:
        """End stubs that outlived a killed server; they carry its region prefix in their arguments."""
        orphans = []
        for process in psutil.process_iter(["name", "cmdline"]):
            command = process.info["cmdline"] or []
            if len(command) > 2 and command[2].startswith(self._shm_prefix):
                orphans.append(process)
        _, alive = psutil.wait_procs(orphans, timeout=2.0)  # a stub ends itself when its server has gone
        for process in alive:
            process.kill()

    def _death(self, status: int) -> ServerError:
        if self._pump is not None:
            self._pump.join(timeout=2.0)
        lines = decisive_lines(self.log_tail())
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return ServerError(
            f"tritonserver {how} before it was ready:\n" + "\n".join(f"  {line}" for line in lines),
            where=str(self.repository),
            mend="mend what the lines above name; `tritonforge doctor` checks this machine",
        )


def _only_dead_stubs(server_pid: int) -> bool:
    live, dead = scan_stubs(server_pid)
    return bool(dead) and not live


def end_with_parent() -> None:
    """In the child: ask the kernel for SIGTERM when the parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
