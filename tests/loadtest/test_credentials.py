from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.credentials import credentials, read_secret
from tritonforge.errors import UsageError


def test_headers_of_the_environment() -> None:
    assert credentials({"TRITONFORGE_TOKEN": " abc\n"}) == {"authorization": "Bearer abc"}
    assert credentials({"TRITONFORGE_API_KEY": "k"}) == {"x-api-key": "k"}
    assert credentials({}) == {}


def test_secrets_from_files(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("abc\n")
    assert read_secret(file) == "abc"
    for text in ("", "two\nlines\n"):
        file.write_text(text)
        with pytest.raises(UsageError, match="one line"):
            read_secret(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_secret(tmp_path / "absent")
