"""Files are written whole or not at all, and never over somebody else's."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import pytest

from deploy.render import RECORD, TARGETS, DeployError, render
from tests.deploy.samples import deployment
from tritonforge.errors import UsageError

ONE = deployment(replicas=1)


def snapshot(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_renders_the_same_twice(target: str, tmp_path: Path) -> None:
    first = render(target, ONE, tmp_path / "a")
    second = render(target, ONE, tmp_path / "b")
    assert [path.relative_to(tmp_path / "a") for path in first] == [
        path.relative_to(tmp_path / "b") for path in second
    ]
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")
    assert all(path.is_file() for path in first)
    # No path of this machine, no moving tag.
    text = "\n".join(snapshot(tmp_path / "a").values())
    assert str(Path.cwd()) not in text
    assert not re.search(r"image: \S+:latest", text)


def test_rendering_again_replaces_and_removes(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    render("compose", ONE, output)
    assert (output / "redis" / "redis.conf").is_file()
    render("kserve", ONE, output)
    assert not (output / "redis").exists()
    assert json.loads((output / RECORD).read_text())["target"] == "kserve"
    assert [path.name for path in output.parent.iterdir()] == ["out"]  # nothing is left beside it


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out" / "empty").mkdir(parents=True)
    render("kserve", ONE, tmp_path / "out")


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"not rendered: notes\.txt"):
        render("kserve", ONE, output)
    assert snapshot(output) == {"notes.txt": "mine"}


def test_what_was_changed_by_hand_is_left_alone(tmp_path: Path) -> None:
    output = tmp_path / "out"
    render("kserve", ONE, output)
    (output / "README.md").write_text("mine")
    with pytest.raises(UsageError, match=r"changed by hand: README\.md") as caught:
        render("kserve", ONE, output)
    assert "kustomize" in str(caught.value.mend)
    assert (output / "README.md").read_text() == "mine"
    (output / "README.md").unlink()  # what is gone is nobody's
    render("kserve", ONE, output)


def test_secrets_outlive_a_rendering(tmp_path: Path) -> None:
    output = tmp_path / "out"
    render("compose", ONE, output)
    (output / "secrets").mkdir(mode=0o700)
    (output / "secrets" / "gateway.env").write_text("kept")
    render("compose", ONE, output)
    assert (output / "secrets" / "gateway.env").read_text() == "kept"
    assert (output / "secrets").stat().st_mode & 0o777 == 0o700


def test_a_damaged_record(tmp_path: Path) -> None:
    output = tmp_path / "out"
    render("kserve", ONE, output)
    (output / RECORD).write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        render("kserve", ONE, output)


def test_places_that_are_no_folder_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(UsageError, match="not a folder"):
            render("kserve", ONE, tmp_path / name)
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    for name in (".", "..", str(inside)):
        with pytest.raises(UsageError, match="current folder"):
            render("kserve", ONE, Path(name))


def test_a_file_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeployError, match="cannot be written"):
        render("kserve", ONE, tmp_path / "file" / "out")


def test_a_full_disk_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    render("kserve", ONE, output)
    (output / "secrets").mkdir()
    before = snapshot(output)

    def full(new: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deploy.render.exchange", full)
    with pytest.raises(DeployError, match="No space left"):
        render("kserve", deployment(name="other"), output)
    monkeypatch.undo()
    assert snapshot(output) == before
    assert (output / "secrets").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_unknown_target(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such target") as caught:
        render("nomad", ONE, tmp_path / "out")
    assert "helm" in str(caught.value.mend)
    assert not (tmp_path / "out").exists()
