"""Finds the ``tensorrt`` module. Everything else here takes the module as an argument.

So the same code builds with TensorRT 10, TensorRT 11 and, ahead of time and without a GPU, with TensorRT
for RTX (``tensorrt_rtx``).
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from tritonforge.errors import EngineError

_NAMES = ("tensorrt", "tensorrt_bindings")  # the bindings alone, where the container has the libraries
_OLDEST = 10
_IN_CONTAINER = (
    "build in the TensorRT container of the month of the Triton image that serves: docker run --rm "
    '--gpus all -v "$PWD":/src -w /src nvcr.io/nvidia/tensorrt:26.07-py3 bash -c '
    "\"pip install -e '.[build]' && tritonforge build RECIPE --engine tensorrt\" (docs/tensorrt.md)"
)


def load_tensorrt() -> ModuleType:
    """Import TensorRT.

    Raises:
        EngineError: It is not installed, its libraries are missing, or it is too old.
    """
    reasons = []
    for name in _NAMES:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:
            reasons.append(f"{name}: {error}")
            continue
        if major(module) < _OLDEST:
            raise EngineError(
                f"TensorRT {module.__version__} is too old: strongly typed networks need {_OLDEST} or newer",
                where="tensorrt",
                mend=_IN_CONTAINER,
            )
        sys.modules.setdefault("tensorrt", module)  # polygraphy knows this name only
        return module
    raise EngineError(
        f"TensorRT cannot be imported ({'; '.join(reasons)})", where="engine: tensorrt", mend=_IN_CONTAINER
    )


def major(trt: ModuleType) -> int:
    """Major version; TensorRT for RTX counts its own, from 1."""
    return int(str(trt.__version__).split(".")[0])


def is_rtx(trt: ModuleType) -> bool:
    """Whether it is TensorRT for RTX, which builds for named compute capabilities without a GPU."""
    return hasattr(trt, "ComputeCapability")
