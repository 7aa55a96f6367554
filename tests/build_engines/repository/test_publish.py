from __future__ import annotations

import ctypes
import errno
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from build_engines.repository import publish as module
from build_engines.repository.names import ModelNames
from build_engines.repository.publish import publish, published_key, published_version, staging_folder

MODELS = ModelNames.of("toy", "openvino").all
FANNED = ModelNames.of("toy", "tensorrt").all


def stage(staging: Path, version: int, key: str, models: Sequence[str] = MODELS) -> None:
    for model in models:
        manifest = {"recipe": "toy", "key": key, "version": version, "models": list(models)}
        folder = staging / model / str(version)
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(f"version {version} of {model}")
        (staging / model / "config.pbtxt").write_text(key)
        (staging / model / "tritonforge.json").write_text(json.dumps(manifest))


def put(repository: Path, version: int, key: str, models: Sequence[str] = MODELS) -> None:
    with staging_folder(repository, "toy") as staging:
        stage(staging, version, key, models)
        publish(staging, repository, "toy")


def tree(repository: Path) -> dict[str, str]:
    return {
        str(path.relative_to(repository)): path.read_text()
        for path in sorted(repository.rglob("*"))
        if path.is_file()
    }


def test_nothing_is_published_yet(tmp_path: Path) -> None:
    assert published_key(tmp_path / "absent", "toy") is None
    assert published_version(tmp_path / "absent", "toy") == 0


def test_the_first_version(tmp_path: Path) -> None:
    put(tmp_path / "deep" / "repository", 1, "a")
    repository = tmp_path / "deep" / "repository"
    assert sorted(path.name for path in repository.iterdir()) == sorted(MODELS)
    assert published_key(repository, "toy") == "a"
    assert published_version(repository, "toy") == 1


def test_the_newest_old_version_is_kept_once(tmp_path: Path) -> None:
    for version, key in [(1, "a"), (2, "b"), (3, "c")]:
        put(tmp_path, version, key)
    assert published_version(tmp_path, "toy") == 3
    for model in MODELS:
        assert sorted(path.name for path in (tmp_path / model).iterdir() if path.is_dir()) == ["2", "3"]
        assert (tmp_path / model / "config.pbtxt").read_text() == "c"
        assert (tmp_path / model / "2" / "model.py").read_text() == f"version 2 of {model}"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(MODELS)


def test_other_recipes_are_left_alone(tmp_path: Path) -> None:
    put(tmp_path, 1, "a")
    for name in ("toy2", "toy_engine2", "README.md"):
        (tmp_path / name).mkdir()
    put(tmp_path, 2, "b")
    assert {"toy2", "toy_engine2", "README.md"} <= {path.name for path in tmp_path.iterdir()}


def test_from_the_cpu_to_tensorrt_and_back(tmp_path: Path) -> None:
    """The set of models changes; nothing stale is left that a server would load."""
    put(tmp_path, 1, "cpu")
    put(tmp_path, 2, "gpu", FANNED)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FANNED)
    assert published_key(tmp_path, "toy") == "gpu"
    assert published_version(tmp_path, "toy") == 2
    put(tmp_path, 3, "cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(MODELS)
    assert published_key(tmp_path, "toy") == "cpu"
    put(tmp_path, 4, "gpu", FANNED)
    assert published_version(tmp_path, "toy") == 4
    assert [path.name for path in (tmp_path / "toy_fanout").iterdir() if path.is_dir()] == ["4"]


def test_a_leftover_or_missing_model_counts_as_not_published(tmp_path: Path) -> None:
    """As a crash before the last step of a publication leaves it."""
    put(tmp_path, 1, "gpu", FANNED)
    with staging_folder(tmp_path, "toy") as staging:
        stage(staging, 2, "cpu")
        for model in MODELS:
            module.exchange(staging / model, tmp_path / model)
    assert published_key(tmp_path, "toy") is None
    put(tmp_path, 3, "gpu", FANNED)
    assert published_key(tmp_path, "toy") == "gpu"
    shutil.rmtree(tmp_path / "toy_fanout")
    assert published_key(tmp_path, "toy") is None


def test_a_recipe_that_bears_the_name_of_a_part_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "toy_fanout"
    other.mkdir()
    (other / "tritonforge.json").write_text(json.dumps({"recipe": "toy_fanout", "key": "other"}))
    put(tmp_path, 1, "cpu")
    assert other.is_dir()
    assert published_key(tmp_path, "toy") == "cpu"


def test_a_folder_is_exchanged_in_one_step(tmp_path: Path) -> None:
    """A reader that looks all the time never finds the folder absent."""
    put(tmp_path, 1, "a")
    stop = threading.Event()

    def look() -> tuple[int, int]:
        looks = absent = 0
        while not stop.is_set():
            absent += not (tmp_path / "toy").is_dir()
            looks += 1
        return looks, absent

    with ThreadPoolExecutor() as pool:
        looking = pool.submit(look)
        for version in range(2, 60):
            put(tmp_path, version, f"key {version}")
        stop.set()
    looks, absent = looking.result()
    assert looks > 100
    assert absent == 0


def test_a_file_system_without_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoExchange:
        def renameat2(self, *_: object) -> int:  # noqa: N802, RUF100 - libc's name
            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: NoExchange())
    put(tmp_path, 1, "a")
    put(tmp_path, 2, "b")
    assert published_key(tmp_path, "toy") == "b"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(MODELS)
    assert sorted(path.name for path in (tmp_path / "toy").iterdir() if path.is_dir()) == ["1", "2"]


def test_an_exception_leaves_the_old_version_and_no_staging(tmp_path: Path) -> None:
    put(tmp_path, 1, "a")
    before = tree(tmp_path)

    def die() -> None:
        with staging_folder(tmp_path, "toy") as staging:
            stage(staging, 2, "b")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die()
    assert tree(tmp_path) == before
    assert not list(tmp_path.glob(".*"))


def test_a_mixed_repository_counts_as_not_published(tmp_path: Path) -> None:
    """As a crash between two exchanges leaves it: the next build publishes again, one version on."""
    put(tmp_path, 1, "a")
    with staging_folder(tmp_path, "toy") as staging:
        stage(staging, 2, "b")
        module.exchange(staging / MODELS[0], tmp_path / MODELS[0])
    assert published_key(tmp_path, "toy") is None
    assert published_version(tmp_path, "toy") == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", "3", '{"key": 3}'])
def test_a_damaged_manifest_counts_as_not_published(tmp_path: Path, damage: str) -> None:
    put(tmp_path, 1, "a")
    for model in MODELS:
        (tmp_path / model / "tritonforge.json").write_text(damage)
    assert published_key(tmp_path, "toy") is None


@pytest.fixture
def small_disk(tmpfs: Callable[[int], Path]) -> Path:
    """A tmpfs of 1 MiB."""
    return tmpfs(1)


def test_a_full_disk_leaves_the_old_version(small_disk: Path) -> None:
    put(small_disk, 1, "a")
    before = tree(small_disk)
    with (
        pytest.raises(OSError, match="No space left"),
        staging_folder(small_disk, "toy") as staging,
    ):
        stage(staging, 2, "b")
        (staging / MODELS[0] / "2" / "model.onnx").write_bytes(bytes(2 << 20))
    assert tree(small_disk) == before
    assert not list(small_disk.glob(".*"))
    assert shutil.disk_usage(small_disk).free > 900_000
