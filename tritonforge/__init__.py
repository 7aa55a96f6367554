"""tritonforge: from a transformer model folder to a served, padding-free Triton ensemble."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tritonforge")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
