from __future__ import annotations

import pytest

from loadtest.addresses import host_and_port
from loadtest.levels import parse_levels, whole
from tritonforge.errors import UsageError


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("1,4,16", (1, 4, 16)),
        ("50:300:50", (50, 100, 150, 200, 250, 300)),
        ("0.5", (0.5,)),
        ("1:4:2", (1, 3)),
    ],
)
def test_levels_are_read(text: str, levels: tuple[float, ...]) -> None:
    assert parse_levels(text, "--concurrency") == levels


@pytest.mark.parametrize(
    "text", ["", "a", "0", "-1", "1:2", "4:1:1", "1:4:0", "1:4:-1", "inf", "nan", "1,,2"]
)
def test_what_is_no_level_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="--request-rate"):
        parse_levels(text, "--request-rate")


def test_too_many_levels_are_refused() -> None:
    with pytest.raises(UsageError, match="1000 levels"):
        parse_levels("1:1000:1", "--concurrency")


def test_users_are_whole() -> None:
    assert whole((1.0, 4.0), "--users") == (1, 4)
    with pytest.raises(UsageError, match="whole"):
        whole((1.5,), "--users")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("localhost:8080", ("localhost", 8080, False)),
        ("http://127.0.0.1:1/x", ("127.0.0.1", 1, False)),
        ("https://door.example", ("door.example", 443, True)),
        ("[::1]:8001", ("::1", 8001, False)),
    ],
)
def test_addresses_are_taken_apart(url: str, parts: tuple[str, int, bool]) -> None:
    assert host_and_port(url) == parts
