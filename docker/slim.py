"""Removes from an image's environment what cannot run in it, each with its reason.

``python docker/slim.py /opt/venv --extra serve`` prints what went and how much it was. It works on the
installed metadata alone (standard library only), and is meant for an image: ``pip check`` complains
afterwards, rightly.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Collection, Container, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

# What is followed: this package, with the extras that are given and those that they name.
_ROOT = "tritonforge"

# Dependencies that are not followed: what only they need goes.
UNUSED_DEPENDENCIES = {
    "nvidia-pytriton": "only its tritonserver, backend and stub are used, never its Python package",
    "tokenizers": "huggingface-hub is for downloads; the tokenizer file lies in the repository",
    "openvino": "openvino-telemetry reports on model conversion, which is done elsewhere",
}
_STILL_NEEDED = {"numpy"}

# Patterns below site-packages. {minor} is the environment's Python, e.g. 3.11.
UNUSED_FILES = {
    "openvino/libs/libopenvino_intel_gpu_plugin.so": "no GPU driver in the image",
    "openvino/libs/cache.json": "belongs to the GPU plugin",
    "openvino/libs/libopenvino_intel_npu_plugin.so": "no NPU driver in the image",
    "openvino/libs/libopenvino_pytorch_frontend.so*": "models come as OpenVINO IR",
    "openvino/libs/libopenvino_tensorflow*_frontend.so*": "models come as OpenVINO IR",
    "openvino/libs/libopenvino_paddle_frontend.so*": "models come as OpenVINO IR",
    "openvino/libs/libopenvino_jax_frontend.so*": "models come as OpenVINO IR",
    "openvino/libs/libopenvino_gguf_frontend.so*": "models come as OpenVINO IR",
    "openvino/frontend/[jpt]*/py_*.so": "Python's side of these frontends",
    "openvino/include": "C++ headers",
    "onnxruntime/capi/libonnxruntime.so*": "for C programs; the Python module carries its own copy",
    "onnxruntime/transformers": "prepares models, which is done elsewhere",
    "onnxruntime/quantization": "prepares models, which is done elsewhere",
    "onnxruntime/tools": "prepares models, which is done elsewhere",
    "numpy/*/tests": "tests",
    "pytriton/tritonserver/python_backend_stubs/!{minor}": "stubs of other Pythons",
    "nvidia_pytriton.libs/libpython*": "for the stub of Python 3.13 alone",
}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Remove what an image cannot use.")
    parser.add_argument("environment", type=Path, help="a virtual environment with tritonforge")
    parser.add_argument(
        "--extra", action="append", required=True, help="that it was installed with; repeat it"
    )
    arguments = parser.parse_args()
    packages = next(arguments.environment.glob("lib/python3.*/site-packages"), None)
    if packages is None:
        sys.stderr.write(f"error: {arguments.environment} is no virtual environment\n")
        return 2
    for name, why, size in [*remove_distributions(packages, arguments.extra), *remove_files(packages)]:
        sys.stdout.write(f"{size / 1e6:7.1f} MB  {name}: {why}\n")
    return 0


def remove_distributions(packages: Path, extras: Collection[str]) -> Iterator[tuple[str, str, int]]:
    """Remove every distribution that serving does not reach.

    Args:
        packages: A ``site-packages`` folder.
        extras: Those of tritonforge that are in use; what they name in turn is.

    Yields:
        Name, reason, and size in bytes of each that went.

    Raises:
        SystemExit: There is no such extra.
    """
    installed = {_canonical(each.name): each for each in distributions(path=[str(packages)])}
    known = installed[_ROOT].metadata.get_all("Provides-Extra") or []
    if unknown := sorted(set(extras) - set(known)):
        sys.exit(f"error: {_ROOT} has no extra {', '.join(unknown)}, only {', '.join(known)}")
    kept: dict[str, set[str]] = {}
    queue = [(_ROOT, set(extras))]
    while queue:
        name, wanted = queue.pop()
        if name not in installed or (name in kept and wanted <= kept[name]):
            continue
        kept[name] = kept.get(name, set()) | wanted
        queue += _needs(installed[name], kept[name])
    for name in sorted(installed.keys() - kept.keys()):
        yield name, "nothing that serves imports it", _remove_distribution(installed[name])


def remove_files(packages: Path) -> Iterator[tuple[str, str, int]]:
    """Remove the files and folders of :data:`UNUSED_FILES`.

    Args:
        packages: A ``site-packages`` folder.

    Yields:
        Pattern, reason, and size in bytes of each that matched.
    """
    minor = packages.parent.name.removeprefix("python")
    for pattern, why in UNUSED_FILES.items():
        if minor == "3.13" and pattern.startswith("nvidia_pytriton.libs/libpython"):
            continue
        folder, _, name = pattern.rpartition("/")
        if name == "!{minor}":
            found = [each for each in packages.glob(f"{folder}/*") if each.name != minor]
        else:
            found = list(packages.glob(pattern))
        if not found:
            continue
        yield pattern.format(minor=minor), why, sum(_remove(each) for each in found)


def _needs(distribution: Distribution, extras: Container[str]) -> Iterator[tuple[str, set[str]]]:
    """What a distribution with these extras asks for: canonical names, and extras of theirs.

    Markers other than extras count as true.
    """
    cut = _canonical(distribution.name) in UNUSED_DEPENDENCIES
    for line in distribution.requires or ():
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[([^]]*)\])?", line)
        condition = re.search(r"""extra\s*==\s*["']([^"']+)""", line)
        if match is None or (condition and condition[1] not in extras):
            continue
        name = _canonical(match[1])
        if not cut or name in _STILL_NEEDED:
            yield name, {each.strip() for each in (match[2] or "").split(",") if each.strip()}


def _remove_distribution(distribution: Distribution) -> int:
    files = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
    size = sum(_remove(file) for file in files if file.is_file())
    # Deepest first, so that a folder is empty once its own folders have gone.
    for folder in sorted({parent for file in files for parent in file.parents}, reverse=True):
        if folder.is_dir() and folder.name != "bin" and not any(folder.iterdir()):
            folder.rmdir()
    return size


def _remove(path: Path) -> int:
    """Remove a file or a folder, and return the bytes it held."""
    if path.is_dir():
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        shutil.rmtree(path)
        return size
    size = path.stat().st_size
    path.unlink()
    return size


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
