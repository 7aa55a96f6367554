"""Removes from a serving environment what cannot run in the CPU image, each with its reason.

``python docker/slim.py /opt/venv`` prints what went and how much it was. It works on the installed metadata
alone (standard library only), and is meant for an image: ``pip check`` complains afterwards, rightly.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

# The extras whose packages stay.
_ROOT = "tritonforge"
_EXTRAS = ("serve", "backends")

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
    "pytriton/tritonserver/python_backend_stubs/!{minor}": "stubs of other Pythons",
    "nvidia_pytriton.libs/libpython*": "for the stub of Python 3.13 alone",
}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Remove what the CPU image cannot use.")
    parser.add_argument("environment", type=Path, help="a virtual environment with tritonforge[serve]")
    arguments = parser.parse_args()
    packages = next(arguments.environment.glob("lib/python3.*/site-packages"), None)
    if packages is None:
        sys.stderr.write(f"error: {arguments.environment} is no virtual environment\n")
        return 2
    for name, why, size in [*remove_distributions(packages), *remove_files(packages)]:
        sys.stdout.write(f"{size / 1e6:7.1f} MB  {name}: {why}\n")
    return 0


def remove_distributions(packages: Path) -> Iterator[tuple[str, str, int]]:
    """Remove every distribution that serving does not reach.

    Args:
        packages: A ``site-packages`` folder.

    Yields:
        Name, reason, and size in bytes of each that went.
    """
    installed = {_canonical(each.name): each for each in distributions(path=[str(packages)])}
    kept, queue = {_ROOT}, [_ROOT]
    while queue:
        for need in _needs(installed[queue.pop()]):
            if need in installed and need not in kept:
                kept.add(need)
                queue.append(need)
    for name in sorted(installed.keys() - kept):
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
            found = [each for each in packages.joinpath(folder).iterdir() if each.name != minor]
        else:
            found = list(packages.glob(pattern))
        yield pattern.format(minor=minor), why, sum(_remove(each) for each in found)


def _needs(distribution: Distribution) -> Iterator[str]:
    """Canonical names of what a distribution asks for; markers other than extras count as true."""
    cut = _canonical(distribution.name) in UNUSED_DEPENDENCIES
    for line in distribution.requires or ():
        match = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"""extra\s*==\s*["']([^"']+)""", line)
        if match is None or (extra and (distribution.name != _ROOT or extra[1] not in _EXTRAS)):
            continue
        name = _canonical(match[0])
        if not cut or name in _STILL_NEEDED:
            yield name


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
