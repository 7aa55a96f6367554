"""What the fenced blocks of the docs are, and who knows whether they are right."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema import Draft202012Validator

from gateway.config import GatewayConfig
from gateway.errors import CODES
from tritonforge.recipe import Recipe

ROOT = Path(__file__).parents[2]
KUBERNETES = ("1.28", kubernetes_validate.latest_version())
PROSE = {"", "text", "mermaid", "bash"}
"""Blocks without a form to check; those of bash are run by ``test_commands.py``."""
_FENCE = re.compile(r"^( *)```([\w+-]*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


class WrongError(Exception):
    """A snippet that would not work."""


@dataclass(frozen=True)
class Snippet:
    """One fenced block."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets() -> Iterator[Snippet]:
    """All blocks of the docs and of the README that have a form to check."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for found in _FENCE.finditer(text):
            if found[2] not in PROSE:
                line = text.count("\n", 0, found.start()) + 1
                body = re.sub(f"^{found[1]}", "", found[3], flags=re.MULTILINE)
                yield Snippet(page.name, line, found[2], body)


def check(snippet: Snippet) -> None:
    """Ask whoever knows the form of a snippet.

    Raises:
        WrongError: With what is wrong, or that nobody knows it.
    """
    checker = _CHECKERS.get(snippet.language)
    if checker is None:
        raise WrongError(f"nobody checks `{snippet.language}`; add a checker, or mark it as `text`")
    checker(snippet.text)


def _yaml(text: str) -> None:
    documents = [document for document in yaml.safe_load_all(text) if document is not None]
    if not documents:
        raise WrongError("holds nothing")
    for document in documents:
        _document(document)


def _document(data: Any) -> None:
    """Some file of the project, whole or in part: whose keys it has, and who takes its values."""
    if isinstance(data, list) and all("job_name" in item for item in data):
        return _prometheus("config", {"scrape_configs": data})
    if not isinstance(data, dict):
        raise WrongError("is neither a mapping nor a list of scrape jobs")
    if "apiVersion" in data:
        return _kubernetes(data)
    if "groups" in data:
        return _prometheus("rules", data)
    if "services" in data:
        return _by_schema(data, get_builtin_schema("vendor.compose-spec"))
    if all(isinstance(value, dict) and ("image" in value or "build" in value) for value in data.values()):
        return _by_schema({"services": data}, get_builtin_schema("vendor.compose-spec"))
    said = []
    for name, keys, take in _parts():
        if data.keys() <= keys:
            try:
                return take(data)
            except (ValueError, WrongError) as error:
                said.append(f"as {name}: {error}")
    raise WrongError("\n".join(said) or f"nobody knows the keys {', '.join(data)}")


def _parts() -> Iterator[tuple[str, set[str], Callable[[dict[str, Any]], Any]]]:
    """Files of which a page may show a part."""
    minimal = {"name": "x", "model": "y"}
    yield "recipe", set(Recipe.model_fields), lambda data: Recipe.model_validate(minimal | data)
    yield "gateway.yaml", set(GatewayConfig.model_fields), GatewayConfig.model_validate
    yield "values.yaml", set(_yaml_of("values.yaml")), _values_of_the_chart


def _values_of_the_chart(data: dict[str, Any]) -> None:
    """Laid over the defaults as Helm does it; what these lack, the source, is not the page's fault."""
    schema = _yaml_of("values.schema.json")
    defaults = _yaml_of("values.yaml")
    before = _faults(defaults, schema)
    if added := [fault for fault in _faults(_merged(defaults, data), schema) if fault not in before]:
        raise WrongError("\n".join(added))


def _yaml_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(
        (ROOT / "deploy/helm/tritonforge" / name).read_text(encoding="utf-8")
    )
    return found


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: _merged(below.get(key), value) for key, value in above.items()}
    return above


def _by_schema(data: Any, schema: Mapping[str, Any]) -> None:
    if found := _faults(data, schema):
        raise WrongError("\n".join(found))


def _faults(data: Any, schema: Mapping[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(data)]


def _kubernetes(data: dict[str, Any]) -> None:
    if data["apiVersion"].startswith("serving.kserve.io/"):
        from tests.deploy.crds.check import FOLDER, faults

        newest = max(FOLDER.glob("kserve-v*.yaml")).stem.removeprefix("kserve-")
        if found := faults(data, newest):
            raise WrongError("\n".join(found))
        return
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(data, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise WrongError(f"Kubernetes {version}: {error.message}") from error


def _prometheus(kind: str, data: Any) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    _run(["promtool", "check", kind, "/dev/stdin"], yaml.safe_dump(data))


def _json(text: str) -> None:
    """One value, or one a line; ``…`` stands for digits left out. Problems have a code that there is."""
    whole = text.replace("…", "")
    try:
        values = [json.loads(whole)]
    except json.JSONDecodeError:
        values = list(_values(whole))
    for value in values:
        if isinstance(value, dict) and "code" in value and value["code"] not in CODES:
            raise WrongError(f"no problem has the code {value['code']}")


def _values(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    while text := text.strip():
        try:
            value, end = decoder.raw_decode(text)
        except json.JSONDecodeError as error:
            raise WrongError(str(error)) from error
        yield value
        text = text[end:]


def _python(text: str) -> None:
    """What it imports is there, with what it takes of it, and no name comes from nowhere.

    A call without imports is a line of a dashboard, written by the names of its module.
    """
    tree = ast.parse(text)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    if not imports:
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        if unknown := names - _dashboard_names():
            raise WrongError(f"dashboards know no {', '.join(sorted(unknown))}")
        return
    for node in imports:
        try:
            exec(ast.unparse(node), {})
        except ImportError as error:
            raise WrongError(str(error)) from error
    ruff = ["ruff", "check", "--isolated", "--select", "E9,F", "--stdin-filename", "x.py", "-"]
    _run([sys.executable, "-m", *ruff], text)


def _dashboard_names() -> set[str]:
    names: set[str] = set()
    for file in (ROOT / "observability" / "dashboards").glob("*.py"):
        names |= vars(importlib.import_module(f"observability.dashboards.{file.stem}")).keys()
    return names


def _dockerfile(text: str) -> None:
    _run([str(Path(sys.executable).with_name("hadolint")), "-"], text)


def _javascript(text: str) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed (apt-get install nodejs)")
    _run(["node", "--check", "-"], text)


def _toml(text: str) -> None:
    tomllib.loads(text)


def _run(command: list[str], text: str) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise WrongError(f"{done.stdout}{done.stderr}")


_CHECKERS: dict[str, Callable[[str], None]] = {
    "dockerfile": _dockerfile,
    "js": _javascript,
    "json": _json,
    "python": _python,
    "toml": _toml,
    "yaml": _yaml,
}
