from __future__ import annotations

import json
from importlib.metadata import Distribution

import pytest

from tritonforge.cli import extras
from tritonforge.cli.extras import install_command, require
from tritonforge.errors import UsageError


class Installed(Distribution):
    """A distribution as pip leaves it behind, without a folder."""

    def __init__(self, **files: str) -> None:
        self.files_by_name = {"METADATA": "Name: tritonforge\nVersion: 1.2.3\n"} | files

    def read_text(self, filename: str) -> str | None:
        return self.files_by_name.get(filename)

    def locate_file(self, path: object) -> object:
        raise NotImplementedError


def test_what_is_there_is_not_complained_about() -> None:
    require("this test", "dev", "json", "pytest")


def test_what_is_missing_is_named_with_the_extra_that_brings_it() -> None:
    with pytest.raises(UsageError) as caught:
        require("this test", "dev", "json", "no_such_module_at_all")
    assert caught.value.what == "this test needs no_such_module_at_all"
    assert caught.value.mend is not None and "dev]" in caught.value.mend
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'tritonforge[build]==1.2.3'"),
        (
            {"url": "file:///a/tritonforge-1.2.3-py3-none-any.whl", "archive_info": {}},
            "pip install 'tritonforge[build]==1.2.3'",
        ),
        (
            {"url": "file:///a", "dir_info": {"editable": True}},
            "pip install -c requirements.lock -e '.[build]' in a checkout of tritonforge",
        ),
    ],
)
def test_the_command_fits_the_installation(
    monkeypatch: pytest.MonkeyPatch, origin: dict[str, object] | None, command: str
) -> None:
    files = {} if origin is None else {"direct_url.json": json.dumps(origin)}
    monkeypatch.setattr(extras, "distribution", lambda name: Installed(**files))
    assert install_command("build") == command
