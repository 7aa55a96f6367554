"""API keys: made, found, revoked, by several processes at once."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.security import api_keys
from gateway.security.api_keys import ApiKeyError, ApiKeyStore
from tritonforge.errors import UsageError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path) -> ApiKeyStore:
    return ApiKeyStore(tmp_path / "secrets" / "keys.json")


def test_a_key_is_found_and_not_kept(store: ApiKeyStore) -> None:
    made = store.create(["embed", "model:minilm", "embed"], "ci")
    assert made.key.startswith(f"tfk_{made.id}_")
    assert len(made.key) == len(f"tfk_{made.id}_") + 43
    found = store.find(made.key)
    assert found == made.record
    assert (found.subject, found.scopes) == (f"key:{made.id}", ("embed", "model:minilm"))
    text = store.path.read_text()
    assert made.key not in text
    assert made.key[-43:] not in text
    assert made.key not in repr(made)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert not list(store.path.parent.glob("*.tmp*"))


def test_names_may_repeat(store: ApiKeyStore) -> None:
    first, second = store.create(["embed"], "ci"), store.create(["classify"], "ci")
    assert first.id != second.id
    assert [key.id for key in store.list()] == [first.id, second.id]
    store.revoke(first.id)
    assert store.find(first.key) is None
    assert store.find(second.key) == second.record


def test_a_revoked_key_ends_at_once_in_a_store_that_is_open(store: ApiKeyStore) -> None:
    made = store.create(["embed"], "ci")
    reader = ApiKeyStore(store.path)
    for _ in range(3):
        assert reader.find(made.key)
    revoked = store.revoke(made.id)
    assert reader.find(made.key) is None
    assert store.revoke(made.id) == revoked  # again: nothing changes
    assert [key.revoked for key in reader.list()] == [revoked.revoked]
    with pytest.raises(ApiKeyError, match="no key 'ci-000000'"):
        store.revoke("ci-000000")


def test_a_key_ends_when_it_expires(store: ApiKeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = store.create(["embed"], "ci", expires_in_days=2)
    assert made.record.expires == made.record.created + timedelta(days=2)
    assert store.find(made.key)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=2)

    monkeypatch.setattr(api_keys, "datetime", Later)
    assert store.find(made.key) is None


def test_another_key_of_a_known_id_is_not_found(store: ApiKeyStore) -> None:
    first, second = store.create(["embed"], "ci"), store.create(["embed"], "ci")
    secret = second.key[-43:]
    wrong = [
        f"tfk_{first.id}_{secret}",
        first.key[:-1],
        first.key + "A",
        first.key + "\n",
        first.key.upper(),
        first.key.replace("tfk_", ""),
        f" {first.key}",
        store.list()[0].sha256,
        f"tfk_{first.id}_{store.list()[0].sha256[:43]}",
    ]
    assert [store.find(key) for key in wrong] == [None] * len(wrong)


@given(st.one_of(st.text(), st.from_regex(r"tfk_[a-z][a-z0-9-]{0,30}-[0-9a-f]{6}_[A-Za-z0-9_-]{43}")))
def test_nothing_else_is_a_key(presented: str) -> None:
    store = ApiKeyStore(Path(os.devnull) / "keys.json")
    assert store.find(presented) is None


@given(st.data())
def test_a_key_with_one_character_changed_is_none(data: st.DataObject) -> None:
    store, key = _KEPT[0]
    position = data.draw(st.integers(0, len(key) - 1))
    character = data.draw(st.characters(exclude_characters=key[position]))
    assert store.find(key[:position] + character + key[position + 1 :]) is None
    assert store.find(key)


_KEPT: list[tuple[ApiKeyStore, str]] = []


@pytest.fixture(scope="module", autouse=True)
def kept(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = ApiKeyStore(tmp_path_factory.mktemp("keys") / "keys.json")
    _KEPT.append((store, store.create(["embed"], "ci").key))


def test_every_answer_compares_a_whole_digest(store: ApiKeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known ID or not, the same work is done, in time that does not depend on where digests differ."""
    made = store.create(["embed"], "ci")
    compared: list[tuple[int, int]] = []
    compare = api_keys.hmac.compare_digest

    def watch(a: str, b: str) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(api_keys.hmac, "compare_digest", watch)
    store.find(made.key)
    store.find(f"tfk_{made.id}_{'A' * 43}")
    store.find(f"tfk_other-000000_{'A' * 43}")
    store.find("no key")
    assert compared == [(64, 64)] * 4


def test_the_empty_digest_opens_nothing(store: ApiKeyStore) -> None:
    assert store.find("") is None


@pytest.mark.parametrize("broken", ["{", "[]", '{"keys": [{"id": "ci"}]}', '{"keys": [], "more": 1}', "\x00"])
def test_a_broken_file_changes_nothing(
    store: ApiKeyStore, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = store.create(["embed"], "ci")
    good = store.path.read_text()
    assert store.find(made.key)
    store.path.write_text(broken)
    assert store.find(made.key), "what it said last stays in force"
    assert capsys.readouterr().out.count("file_broken") == 1
    assert ApiKeyStore(store.path).find(made.key) is None, "where it was never good, nobody comes in"
    for change in (store.list, lambda: store.create(["embed"], "b"), lambda: store.revoke(made.id)):
        with pytest.raises(ApiKeyError, match="not a file of API keys"):
            change()
    assert store.path.read_text() == broken, "nothing is written over what might be mended"
    store.path.write_text(good)
    store.revoke(made.id)
    assert store.find(made.key) is None


def test_a_file_that_is_gone_holds_no_keys(store: ApiKeyStore) -> None:
    assert store.list() == ()
    made = store.create(["embed"], "ci")
    assert store.find(made.key)
    store.path.unlink()
    assert store.find(made.key) is None


def test_a_digest_is_not_in_the_log(store: ApiKeyStore, capsys: pytest.CaptureFixture[str]) -> None:
    made = store.create(["embed"], "ci")
    store.find(made.key)
    store.path.write_text(store.path.read_text().replace('"scopes"', '"scope"'))
    store.find(made.key)
    said = "".join(capsys.readouterr())
    assert "file_broken" in said
    assert made.record.sha256 not in said
    assert made.key not in said


def test_writers_wait_for_each_other(store: ApiKeyStore) -> None:
    """Four processes make keys while a reader looks; none is lost, and the file is never half written."""
    script = (
        "import sys; from pathlib import Path; from gateway.security.api_keys import ApiKeyStore\n"
        "store = ApiKeyStore(Path(sys.argv[1]))\n"
        "for _ in range(10): store.create(['embed'], sys.argv[2])\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, store.path, f"writer-{i}"], cwd=ROOT)
        for i in range(4)
    ]
    while any(writer.poll() is None for writer in writers):
        store.list()  # raises where it is half written
        time.sleep(0.001)
    assert [writer.wait() for writer in writers] == [0] * 4
    assert len(store.list()) == 40


@pytest.mark.parametrize("name", ["", "CI", "a_b", "-a", "a" * 32, "ä", "a b", "../x"])
def test_names_are_checked(store: ApiKeyStore, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a key"):
        store.create(["embed"], name)


@pytest.mark.parametrize(
    "scopes", [[], ["Embed"], ["admin"], ["model:"], ["model:a b"], ["embed", "x\nembed"]]
)
def test_scopes_are_checked(store: ApiKeyStore, scopes: list[str]) -> None:
    with pytest.raises(UsageError, match="scope"):
        store.create(scopes, "ci")
    assert not store.path.exists()


@pytest.mark.parametrize("days", [0, -1, float("nan"), float("inf")])
def test_ends_are_checked(store: ApiKeyStore, days: float) -> None:
    with pytest.raises(UsageError, match="cannot end"):
        store.create(["embed"], "ci", expires_in_days=days)


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ApiKeyError, match="cannot be written"):
        ApiKeyStore(tmp_path / "file" / "keys.json").create(["embed"], "ci")


def test_times_are_those_of_the_world(store: ApiKeyStore) -> None:
    store.create(["embed"], "ci")
    entry = json.loads(store.path.read_text())["keys"][0]
    assert set(entry) == {"id", "sha256", "scopes", "created"}
    made = datetime.fromisoformat(entry["created"])
    assert abs(datetime.now(UTC) - made) < timedelta(seconds=60)
