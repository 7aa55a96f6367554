"""Finds the real tritonserver and says what it needs to run on this interpreter.

Two places are looked at: ``tritonserver`` on ``PATH`` (the Triton container), then the wheel
``nvidia-pytriton``, which carries the binary, the Python backend and a stub for each Python minor
version. The wheel scatters these; :meth:`TritonInstallation.lay_out_backends` puts them side by side.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

from tritonforge.errors import ServerError

WHEEL = "nvidia-pytriton"
STUB_NAME = "triton_python_backend_stub"
_SYSTEM_ROOT = Path("/opt/tritonserver")


@dataclass(frozen=True)
class TritonInstallation:
    """One tritonserver and the folders that belong to it.

    Attributes:
        binary: The ``tritonserver`` executable.
        kind: ``system`` (found on PATH, complete as it is) or ``embedded`` (from the wheel).
        version: Triton's own version where the installation says it, else the wheel's as
            ``nvidia-pytriton X``. A running server tells its version itself (``GET /v2``).
        python_backend: Folder with ``libtriton_python.so``, if the Python backend is there.
        stub: The stub executable that matches this interpreter (embedded) or the only one (system).
        cache_directory: Value for ``--cache-directory``; None where the built-in default is right.
        library_dirs: Folders that ``LD_LIBRARY_PATH`` must start with.
        python: The interpreter whose packages a Python model sees.
    """

    binary: Path
    kind: Literal["system", "embedded"]
    version: str | None
    python_backend: Path | None
    stub: Path | None
    cache_directory: Path | None
    library_dirs: tuple[Path, ...]
    python: Path

    def lay_out_backends(self, target: Path) -> Path | None:
        """Give a value for ``--backend-directory``.

        Args:
            target: An existing empty folder, which must outlive the server.

        Returns:
            ``target`` filled with links (embedded), or None: the server's own default is right.

        Raises:
            ServerError: The wheel has no stub for this Python.
        """
        if self.kind == "system":
            return None
        if self.stub is None or self.python_backend is None:
            raise ServerError(
                f"{WHEEL} has no Python backend stub for Python {_python_minor()}",
                where=str(self.binary.parent.parent),
                mend="make the environment with Python 3.11: `python3.11 -m venv .venv`",
            )
        folder = target / "python"
        folder.mkdir()
        # Links, not copies: the libraries find theirs by $ORIGIN, which the loader takes from the real path.
        for source in (
            self.python_backend / "libtriton_python.so",
            self.python_backend / "triton_python_backend_utils.py",
            self.stub,
        ):
            (folder / source.name).symlink_to(source)
        return target

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return ``base`` changed so that the server and its stubs run on this interpreter.

        The stub embeds Python and finds its prefix as ``python3`` on ``PATH`` would: with the
        environment's ``bin`` first, the virtual environment and the standard library are those of
        :attr:`python`.
        """
        environment = dict(base)
        # Set for another interpreter, it would give the stub a foreign standard library.
        environment.pop("PYTHONHOME", None)
        _prepend(environment, "PATH", (self.python.parent,))
        _prepend(environment, "LD_LIBRARY_PATH", self.library_dirs)
        environment["PYTHONUNBUFFERED"] = "1"
        return environment


def locate_tritonserver() -> TritonInstallation:
    """Find tritonserver on PATH, or else in the wheel.

    Raises:
        ServerError: Neither is there.
    """
    on_path = shutil.which("tritonserver")
    if on_path is not None:
        return _system(Path(on_path))
    root = _wheel_root()
    if root is not None:
        return _embedded(root)
    raise ServerError(
        f"no tritonserver on PATH, and the package {WHEEL} is not installed",
        mend='pip install "tritonforge[serve]", or run inside the container nvcr.io/nvidia/tritonserver',
    )


def libpython_dirs() -> tuple[Path, ...]:
    """Return the folders that hold this interpreter's shared libpython; empty if it has none."""
    name = sysconfig.get_config_var("INSTSONAME") or f"libpython{_python_minor()}.so.1.0"
    # Relocated interpreters carry the LIBDIR of the machine that built them, hence the second guess.
    guesses = (sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix, "lib"))
    found = (Path(guess) for guess in guesses if guess and Path(guess, name).is_file())
    return tuple(dict.fromkeys(found))


def _system(binary: Path) -> TritonInstallation:
    root = binary.resolve().parent.parent
    if not (root / "backends").is_dir():
        root = _SYSTEM_ROOT
    backend = root / "backends" / "python"
    version_file = root / "TRITON_VERSION"
    version = os.environ.get("TRITON_SERVER_VERSION")
    if version is None and version_file.is_file():
        version = version_file.read_text(encoding="utf-8").strip()
    return TritonInstallation(
        binary=binary,
        kind="system",
        version=version,
        python_backend=backend if backend.is_dir() else None,
        stub=_if_file(backend / STUB_NAME),
        cache_directory=None,
        library_dirs=(),
        python=Path(shutil.which("python3") or sys.executable),
    )


def _embedded(root: Path) -> TritonInstallation:
    libraries = root.parent.parent / "nvidia_pytriton.libs"
    return TritonInstallation(
        binary=root / "bin" / "tritonserver",
        kind="embedded",
        version=f"{WHEEL} {distribution(WHEEL).version}",
        python_backend=root / "backends" / "python",
        stub=_if_file(root / "python_backend_stubs" / _python_minor() / STUB_NAME),
        cache_directory=root / "caches",
        library_dirs=(libraries, *libpython_dirs()),
        python=Path(sys.prefix, "bin", "python3"),
    )


def _wheel_root() -> Path | None:
    try:
        files = distribution(WHEEL)
    except PackageNotFoundError:
        return None
    root = Path(str(files.locate_file("pytriton/tritonserver")))
    return root if (root / "bin" / "tritonserver").is_file() else None


def _python_minor() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _prepend(environment: dict[str, str], key: str, folders: tuple[Path, ...]) -> None:
    parts = [str(folder) for folder in folders]
    if environment.get(key):
        parts.append(environment[key])
    if parts:
        environment[key] = os.pathsep.join(parts)
