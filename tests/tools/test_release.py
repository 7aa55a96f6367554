"""The version is written once; `tools/release.py` finds what disagrees, and moves all of it at once."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

LOG = """\
# Changelog

## [Unreleased]

### Added

- A door.

## [0.2.0] - 2026-05-01

### Fixed

- A window.

## [0.1.0] - 2026-02-03

- All of it.
"""


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_release", ROOT / "tools" / "release.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project at 0.2.0."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "tritonforge"\nversion = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(LOG)
    chart = tmp_path / "deploy" / "helm" / "tritonforge" / "Chart.yaml"
    chart.parent.mkdir(parents=True)
    chart.write_text('apiVersion: v2\nversion: 0.2.0\nappVersion: "0.2.0"\nkubeVersion: ">=1.28.0-0"\n')
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "Dockerfile.cpu").write_text(
        '# -t tritonforge:0.2.0-cpu .\nLABEL org.opencontainers.image.version="0.2.0" \\\n      x="0.2.0"\n'
    )
    (tmp_path / "docker" / "compose.yaml").write_text("image: example.org/tritonforge/gateway:0.2.0\n")
    return tmp_path


def test_this_checkout_names_one_version(release: ModuleType) -> None:
    assert release.problems() == []
    assert release.read_version() == version("tritonforge")
    places = {path for path, _, _ in release.repetitions()}
    assert {"docker/Dockerfile.cpu", "docker/Dockerfile.gpu"} <= places


def test_a_project_in_step_may_be_published_under_its_tag(release: ModuleType, project: Path) -> None:
    assert release.problems(project, "v0.2.0") == []
    assert release.notes(project) == "### Fixed\n\n- A window.\n"


def test_each_repetition_that_disagrees_is_named(release: ModuleType, project: Path) -> None:
    (project / "pyproject.toml").write_text('[project]\nname = "tritonforge"\nversion = "0.2.1"\n')
    found = {problem.partition(": says")[0] for problem in release.problems(project)}
    assert found == {
        "deploy/helm/tritonforge/Chart.yaml:2",
        "deploy/helm/tritonforge/Chart.yaml:3",
        "docker/Dockerfile.cpu:1",
        "docker/Dockerfile.cpu:2",
        "docker/compose.yaml:1",
    }
    with pytest.raises(release.ReleaseError, match=r"says nothing of 0\.2\.1"):
        release.notes(project)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("## [Unreleased]\n", "", "the first section is not"),
        (" - 2026-05-01", "", "0.2.0 has no date"),
        (" - 2026-05-01", " - 1 May", "0.2.0 has no date"),
        ("[0.1.0]", "[0.3.0]", "0.2.0 stands above 0.3.0"),
        ("## [0.1.0] - 2026-02-03", "## 0.1.0 (2026-02-03)", "0.1.0 (2026-02-03) is not"),
        ("[0.1.0]", "[0.1]", "0.1 is not MAJOR.MINOR.PATCH"),
        ("### Fixed", "### Mended", "Mended is none of Added"),
    ],
)
def test_a_changelog_of_another_form_is_refused(
    release: ModuleType, project: Path, old: str, new: str, said: str
) -> None:
    assert old in LOG
    (project / "CHANGELOG.md").write_text(LOG.replace(old, new, 1))
    assert any(said in problem for problem in release.problems(project))


@pytest.mark.parametrize("tag", ["0.2.0", "v0.2.1", "v0.1.0"])
def test_another_tag_is_refused(release: ModuleType, project: Path, tag: str) -> None:
    assert release.problems(project, tag)


def test_a_cut_moves_everything_at_once(release: ModuleType, project: Path) -> None:
    changed = release.cut("0.3.0", project, date="2026-12-01")
    assert changed == [
        "CHANGELOG.md",
        "deploy/helm/tritonforge/Chart.yaml",
        "docker/Dockerfile.cpu",
        "docker/compose.yaml",
        "pyproject.toml",
    ]
    assert release.problems(project, "v0.3.0") == []
    assert release.notes(project) == "### Added\n\n- A door.\n"
    dockerfile = (project / "docker" / "Dockerfile.cpu").read_text()
    assert "tritonforge:0.3.0-cpu" in dockerfile and 'x="0.2.0"' in dockerfile
    assert 'kubeVersion: ">=1.28.0-0"' in (project / "deploy/helm/tritonforge/Chart.yaml").read_text()
    with pytest.raises(release.ReleaseError, match="nothing stands under"):
        release.cut("0.4.0", project)


@pytest.mark.parametrize("wanted", ["0.2.0", "0.1.9", "0.3", "1.0.0rc1", "01.0.0"])
def test_a_version_that_is_not_above_is_not_cut(release: ModuleType, project: Path, wanted: str) -> None:
    before = (project / "CHANGELOG.md").read_text()
    with pytest.raises(release.ReleaseError):
        release.cut(wanted, project)
    assert (project / "CHANGELOG.md").read_text() == before


def test_a_copy_of_this_checkout_can_be_cut_and_published(release: ModuleType, tmp_path: Path) -> None:
    for name in ("pyproject.toml", "CHANGELOG.md", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("docker", "deploy", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    release.cut("9.0.0", tmp_path)
    assert release.problems(tmp_path, "v9.0.0") == []
