from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tritonforge.errors import UsageError
from tritonforge.pack.fetch import fetch
from tritonforge.pack.manifest import MANIFEST_NAME, PackError, PackManifest
from tritonforge.pack.write import pack


def put(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An ensemble with an empty version folder, its engine in two versions, and a model beside them."""
    folder = tmp_path / "repository"
    built = {"recipe": "toy", "key": "k", "models": ["toy_engine", "toy"]}
    put(folder / "toy/config.pbtxt", 'ensemble_scheduling { step { model_name: "toy_engine" } }')
    (folder / "toy/2").mkdir()
    put(folder / "toy_engine/config.pbtxt", "version_policy { latest { num_versions: 1 } }")
    put(folder / "toy_engine/1/model.bin", "old")
    put(folder / "toy_engine/2/model.bin", "new" * 1_000_000)
    put(folder / "toy_engine/2/__pycache__/x.pyc")
    put(folder / "toy_engine/.hidden")
    for model in built["models"]:
        put(folder / model / "tritonforge.json", json.dumps(built))
    put(folder / "other/config.pbtxt")
    put(folder / "other/1/model.py", "pass")
    return folder


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() if path.is_file() else "a folder"
        for path in sorted(folder.rglob("*"))
        if not path.name.startswith(".tritonforge-fetch")
    }


def test_what_is_packed_is_what_is_fetched(repository: Path, tmp_path: Path) -> None:
    packed = pack(repository, tmp_path / "toy.tar", ["toy"])
    assert packed.models == ("toy_engine", "toy")
    fetched = fetch(str(packed.path), tmp_path / "into", packed.sha256)
    assert fetched.changed
    found = tree(tmp_path / "into")
    assert found.keys() == {
        *("toy", "toy/2", "toy/config.pbtxt", "toy/tritonforge.json"),
        *("toy_engine", "toy_engine/2", "toy_engine/2/model.bin"),
        *("toy_engine/config.pbtxt", "toy_engine/tritonforge.json"),
    }
    assert found == {path: tree(repository)[path] for path in found}


def test_the_digest_is_that_of_the_files_alone(repository: Path, tmp_path: Path) -> None:
    first = pack(repository, tmp_path / "a.tar")
    (repository / "toy/config.pbtxt").touch(mode=0o600)
    second = pack(repository, tmp_path / "b.tar")
    assert first.sha256 == second.sha256 == hashlib.sha256(first.path.read_bytes()).hexdigest()
    assert subprocess.run(["sha256sum", "--check", "--quiet", "a.tar.sha256"], cwd=tmp_path).returncode == 0
    (repository / "other/1/model.py").write_text("raise")
    assert pack(repository, tmp_path / "c.tar").sha256 != first.sha256


def test_all_versions_of_a_policy_are_packed(repository: Path, tmp_path: Path) -> None:
    (repository / "toy_engine/config.pbtxt").write_text("version_policy: { all { } }")
    pack(repository, tmp_path / "toy.tar")
    fetch(str(tmp_path / "toy.tar"), tmp_path / "into")
    assert (tmp_path / "into/toy_engine/1/model.bin").read_text() == "old"


def test_a_model_without_its_part_is_refused(repository: Path, tmp_path: Path) -> None:
    (repository / "toy_engine/config.pbtxt").unlink()
    with pytest.raises(PackError, match="toy calls the model toy_engine"):
        pack(repository, tmp_path / "toy.tar", ["toy"])


def test_a_publication_that_was_cut_off_is_refused(repository: Path, tmp_path: Path) -> None:
    put(
        repository / "toy/tritonforge.json",
        json.dumps({"recipe": "toy", "key": "new", "models": ["toy_engine"]}),
    )
    with pytest.raises(PackError, match="different builds"):
        pack(repository, tmp_path / "toy.tar")
    assert not list(tmp_path.glob("*.tar"))


def test_what_lies_there_is_verified_and_mended(repository: Path, tmp_path: Path) -> None:
    packed = pack(repository, tmp_path / "toy.tar", ["toy"])
    into = tmp_path / "into"
    fetch(str(packed.path), into, packed.sha256)
    before = tree(into)
    # No source is read when all of it is there.
    assert not fetch("https://127.0.0.1:1/none.tar", into, packed.sha256).changed
    weights = into / "toy_engine/2/model.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert fetch(str(packed.path), into, packed.sha256).changed
    put(into / "toy_engine/3/model.bin", "a version that nobody packed")
    assert fetch(str(packed.path), into, packed.sha256).changed
    assert tree(into) == before


def test_models_that_the_new_archive_lacks_are_taken_away(repository: Path, tmp_path: Path) -> None:
    both, one = pack(repository, tmp_path / "a.tar"), pack(repository, tmp_path / "b.tar", ["other"])
    fetch(str(both.path), tmp_path / "into", both.sha256)
    fetch(str(one.path), tmp_path / "into", one.sha256)
    assert [path.name for path in (tmp_path / "into").iterdir() if path.is_dir()] == ["other"]


def test_models_of_others_are_left_alone(repository: Path, tmp_path: Path) -> None:
    packed = pack(repository, tmp_path / "a.tar", ["other"])
    with pytest.raises(PackError, match="not fetched: other, toy, toy_engine"):
        fetch(str(packed.path), repository, packed.sha256)
    assert (repository / "toy/config.pbtxt").is_file()


def archive(path: Path, manifest: PackManifest | dict[str, object], files: dict[str, bytes]) -> Path:
    """An archive as nobody should write it."""
    content = manifest.encode() if isinstance(manifest, PackManifest) else json.dumps(manifest).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in {MANIFEST_NAME: content, **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def manifest_of(*files: tuple[str, bytes]) -> dict[str, object]:
    described = [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files
    ]
    return {"format": 1, "models": ["m"], "folders": [], "files": described}


@pytest.mark.parametrize(
    ("listed", "held", "what"),
    [
        ([("m/../../x", b"1")], {"m/../../x": b"1"}, "outside its models"),
        ([("/etc/x", b"1")], {"/etc/x": b"1"}, "outside its models"),
        ([("other/x", b"1")], {"other/x": b"1"}, "outside its models"),
        ([("m/x", b"1")], {"m/x": b"2"}, "is not what the archive's manifest says"),
        ([("m/x", b"1")], {"m/x": b"1", "m/y": b"1"}, "does not list"),
        ([("m/x", b"1")], {}, "1 files are missing"),
    ],
)
def test_an_archive_that_lies_leaves_no_trace(
    tmp_path: Path, listed: list[tuple[str, bytes]], held: dict[str, bytes], what: str
) -> None:
    path = archive(tmp_path / "bad.tar", manifest_of(*listed), held)
    with pytest.raises(PackError, match=what):
        fetch(str(path), tmp_path / "into")
    assert not tree(tmp_path / "into")


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "bad.tar", manifest_of(("m/x", b"")), {})
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("m/x")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(PackError, match="does not list as a file"):
        fetch(str(path), tmp_path / "into")


@pytest.mark.parametrize("kept", [0, 100, 5000, 1_000_000])
def test_an_archive_that_is_cut_off(repository: Path, tmp_path: Path, kept: int) -> None:
    packed = pack(repository, tmp_path / "toy.tar")
    packed.path.write_bytes(packed.path.read_bytes()[:kept])
    with pytest.raises(PackError):
        fetch(str(packed.path), tmp_path / "into", packed.sha256)
    assert not tree(tmp_path / "into")


def test_another_archive_than_the_wanted_one_leaves_the_old_models(repository: Path, tmp_path: Path) -> None:
    packed = pack(repository, tmp_path / "a.tar", ["other"])
    fetch(str(packed.path), tmp_path / "into", packed.sha256)
    with pytest.raises(PackError, match="another one"):
        fetch(str(pack(repository, tmp_path / "b.tar").path), tmp_path / "into", "0" * 64)
    assert "toy" not in tree(tmp_path / "into")
    assert not fetch("missing.tar", tmp_path / "into", packed.sha256).changed


@pytest.mark.parametrize(
    "source", ["http://127.0.0.1:1/x.tar", "ftp://example.com/x.tar", "https://me:secret@example.com/x.tar"]
)
def test_sources_that_are_not_read(source: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        fetch(source, tmp_path / "into")
    assert "secret" not in str(caught.value)


def test_the_commands(repository: Path, tmp_path: Path) -> None:
    run = [sys.executable, "-m", "tritonforge.cli"]
    made = subprocess.run(
        [*run, "pack", "toy", "--repository", repository, "--output", "toy.tar", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    digest = json.loads(made.stdout)["sha256"]
    fetched = subprocess.run(
        [*run, "fetch", "toy.tar", "--into", "into", "--sha256", digest],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (fetched.returncode, digest in fetched.stdout) == (0, True)
    wrong = subprocess.run(
        [*run, "fetch", "toy.tar", "--into", "new", "--sha256", "0" * 64],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (wrong.returncode, "is another one" in wrong.stderr) == (1, True)
