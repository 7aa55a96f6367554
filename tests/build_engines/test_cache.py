from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from build_engines.cache import ArtifactStore, build_lock, content_key
from tritonforge.errors import BuildError

A, B = content_key(x=1), content_key(x=2)


def write(text: str):
    return lambda folder: (folder / "file").write_text(text)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def test_keys_depend_on_values_and_not_on_their_order() -> None:
    assert content_key(a=1, b={"c": 2, "d": 3}) == content_key(b={"d": 3, "c": 2}, a=1)
    assert len({content_key(a=1), content_key(a="1"), content_key(a=1.5), content_key(b=1)}) == 4


def test_made_once(store: ArtifactStore) -> None:
    first, reused = store.get_or_make("export", A, write("one"))
    assert not reused
    second, reused = store.get_or_make("export", A, write("two"))
    assert reused
    assert first == second
    assert (first / "file").read_text() == "one"


def test_again_replaces(store: ArtifactStore) -> None:
    store.get_or_make("export", A, write("one"))
    folder, reused = store.get_or_make("export", A, write("two"), again=True)
    assert not reused
    assert (folder / "file").read_text() == "two"


def test_only_the_newest_of_a_kind_is_kept(store: ArtifactStore) -> None:
    for kind in ("compile-openvino-fp32", "compile-openvino-int8"):
        store.get_or_make(kind, A, write("old"))
    store.get_or_make("compile-openvino-fp32", B, write("new"))
    names = sorted(path.name for path in store.root.iterdir())
    assert names == [f"compile-openvino-fp32-{B}", f"compile-openvino-int8-{A}"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_maker_that_dies_leaves_nothing_and_takes_nothing(
    store: ArtifactStore, error: type[BaseException]
) -> None:
    kept, _ = store.get_or_make("export", A, write("old"))

    def die(folder: Path) -> None:
        (folder / "half").write_text("...")
        raise error

    for key, again in [(B, False), (A, True)]:
        with pytest.raises(error):
            store.get_or_make("export", key, die, again=again)
        assert [path.name for path in store.root.iterdir()] == [kept.name]
        assert (kept / "file").read_text() == "old"


def test_a_full_disk_is_an_error_that_says_so(store: ArtifactStore) -> None:
    def fill(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "model.onnx"))

    with pytest.raises(BuildError, match="No space left on device") as caught:
        store.get_or_make("export", A, fill)
    assert caught.value.where and caught.value.where.endswith("model.onnx")
    assert caught.value.mend and "free disk space" in caught.value.mend
    assert list(store.root.iterdir()) == []


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="cannot write"):
        ArtifactStore(tmp_path / "file" / "artifacts").get_or_make("export", A, write("one"))


def test_two_builds_in_one_folder_take_turns(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from build_engines.cache import build_lock
with build_lock(Path(sys.argv[1]), lambda line: None):
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin and other.stdout
        assert other.stdout.readline() == "held\n"
        told: list[str] = []

        def wait(line: str) -> None:
            told.append(line)
            other.stdin.close()  # the other ends only once this one waits

        with build_lock(tmp_path, wait):
            assert other.wait(timeout=30) == 0
    assert told and str(tmp_path) in told[0]
