"""TensorRT without a GPU: TensorRT for RTX, which builds, and enterprise bindings, which show their names.

The bindings of ``tensorrt`` are an ordinary wheel; only the libraries that they load are not to be had
everywhere. Empty libraries with the symbols that they look for are enough to import them and to read every
class and signature. Nothing can be called that way, and nothing is. Put the wheels
``tensorrt_cu12_bindings-*.whl`` into a folder and name it in ``TRITONFORGE_TENSORRT_WHEELS`` to repeat it.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[3]
WHEELS = "TRITONFORGE_TENSORRT_WHEELS"
_SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_DUMP = """
import json, sys
import tensorrt_bindings as trt
public = lambda thing: sorted(name for name in dir(thing) if not name.startswith("_"))
attributes, names = {name: public(getattr(trt, name)) for name in sys.argv[1:]}, public(trt)
print(json.dumps({"version": trt.__version__, "names": names, "attributes": attributes}))
"""


@pytest.fixture(scope="session")
def rtx() -> ModuleType:
    """TensorRT for RTX: a real parser and builder of the family, ahead of time."""
    return pytest.importorskip("tensorrt_rtx", reason="pip install 'tritonforge[rtx]'")


@pytest.fixture(scope="session")
def snapshot() -> Any:
    """Names in the enterprise bindings, by version."""
    return json.loads((HERE / "bindings.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def enterprise(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """For each version of which there is a wheel, the environment in which its bindings can be imported."""
    folder, compiler = os.environ.get(WHEELS), shutil.which("gcc")
    if not folder or not compiler:
        pytest.skip(f"needs gcc, and wheels of the bindings in the folder that {WHEELS} names")
    environments = {}
    for wheel in sorted(Path(folder).glob("tensorrt_cu12_bindings-*.whl")):
        version = wheel.name.split("-")[1]
        root = tmp_path_factory.mktemp("bindings")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root)
        source = root / "empty.c"
        source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in _SYMBOLS))
        for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
            name = f"lib{library}.so.{version.split('.')[0]}"
            command = [
                compiler,
                "-shared",
                "-fPIC",
                f"-Wl,-soname,{name}",
                "-o",
                str(root / name),
                str(source),
            ]
            subprocess.run(command, check=True)
        environments[version] = {**os.environ, "LD_LIBRARY_PATH": str(root), "PYTHONPATH": str(root)}
    return environments


@pytest.fixture(scope="session")
def dump_names() -> Callable[..., Any]:
    """Reads version, names, and attributes of some classes, in an environment of :func:`enterprise`."""

    def dump(environment: dict[str, str], *classes: str) -> Any:
        command = [sys.executable, "-c", _DUMP, *classes]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    return dump


@pytest.fixture(scope="session")
def type_check(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Runs mypy on Python files against stubs that are generated from a module's own signatures."""

    def check(module: str, files: list[Path], environment: dict[str, str] | None = None) -> list[str]:
        root = tmp_path_factory.mktemp("stubs")
        bin_folder = Path(sys.executable).parent
        subprocess.run(
            [str(bin_folder / "stubgen"), "--inspect-mode", "-m", module, "-o", str(root / "made")],
            env=environment,
            check=True,
            capture_output=True,
            cwd=root,
        )
        (made,) = (root / "made").rglob("*.pyi")
        (root / "tensorrt").mkdir()
        text = re.sub(rf"\b{re.escape(module)}\.", "", made.read_text(encoding="utf-8"))
        (root / "tensorrt" / "__init__.pyi").write_text(_parsable(text), encoding="utf-8")
        done = subprocess.run(
            [
                str(bin_folder / "mypy"),
                "--check-untyped-defs",
                # pybind11 converts tuples to Dims, of which its signatures say nothing.
                "--disable-error-code=arg-type",
                "--config-file=/dev/null",
                "--follow-imports=skip",
                f"--cache-dir={root / 'cache'}",
                str(root / "tensorrt" / "__init__.pyi"),
                *map(str, files),
            ],
            env={**os.environ, "MYPYPATH": f"{root}:{CHECKOUT}"},
            capture_output=True,
            text=True,
            cwd=root,
        )
        assert done.returncode < 2, done.stdout + done.stderr
        # The stubs themselves are not what is checked.
        told = [line for line in done.stdout.splitlines() if ": error:" in line]
        return [line for line in told if not line.startswith("tensorrt/__init__.pyi")]

    return check


def _parsable(stub: str) -> str:
    """A few signatures of pybind11 are no Python (a default before none): these take anything."""
    lines = stub.splitlines()
    while True:
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            assert error.lineno is not None
            head = re.match(r"\s*def \w+", lines[error.lineno - 1])
            assert head, lines[error.lineno - 1]
            lines[error.lineno - 1] = f"{head.group()}(self, *args, **kwargs): ..."
        else:
            return "\n".join(lines)
