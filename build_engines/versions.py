"""Versions and sources that decide a build's result; read without importing the heavy libraries."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tritonforge.server.resources import cpu_name

EXPORT_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "onnx", "onnxscript", "onnx-ir")


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions by distribution name."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


@cache
def source_hash(package_file: str, *folders: str) -> str:
    """Hash of a package's Python sources, or of some of its parts: changed code means another result.

    Args:
        package_file: ``__file__`` of the package.
        *folders: Sub-folders and files to take; everything where none is named.
    """
    root = Path(package_file).parent
    digest = hashlib.sha256()
    parts = [root / folder for folder in folders or ("",)]
    for path in sorted(p for part in parts for p in ([part] if part.is_file() else part.rglob("*.py"))):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def machine() -> dict[str, str | int]:
    """What a reader needs to know of the machine that measured."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }
