"""API keys: made here, kept as digests, ended at once.

A key is ``tfk_ID_SECRET``. ID is no secret: the key's name and six hexadecimal digits, by which logs and
limits call the caller, and which finds the digest. SECRET is 256 bits from the system's random source in
URL-safe base64. Nobody can try that many against a stolen digest, so one SHA-256 is enough; slow password
hashes are for secrets that people think up, and would take their time from every request.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, Field, ValidationError

from gateway.config.sections import Section
from gateway.files import write_private
from gateway.identity import API_SCOPES
from gateway.security.watched import WatchedFile
from tritonforge.errors import TritonForgeError, UsageError, first_line

PREFIX = "tfk_"
KEY_SUBJECT = "key:"
_SECRET_BYTES = 32
_MAX_DAYS = 36_500
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_KEY = re.compile(r"tfk_([a-z][a-z0-9-]{0,30}-[0-9a-f]{6})_[A-Za-z0-9_-]{43}")
_SCOPE = re.compile(rf"(?:{'|'.join(API_SCOPES)}|model:(?:\*|[\w.-]+))", re.ASCII)
_NOBODY = hashlib.sha256(b"").hexdigest()
"""Compared with where no such key is, so that the answer takes as long; the digest of no key."""


class ApiKeyError(TritonForgeError):
    """The file of keys is broken or cannot be written, or has no such key."""


class ApiKey(Section):
    """What is kept of a key."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}-[0-9a-f]{6}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    scopes: tuple[str, ...]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    @property
    def subject(self) -> str:
        """Whom the key stands for."""
        return KEY_SUBJECT + self.id

    def valid(self, now: datetime) -> bool:
        """Whether it opens anything."""
        return self.revoked is None and (self.expires is None or now < self.expires)


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key that was just made.

    Attributes:
        record: What is kept of it.
        key: What its owner sends, as ``x-api-key``.
    """

    record: ApiKey
    key: str = field(repr=False)

    @property
    def id(self) -> str:
        """What revokes it."""
        return self.record.id


class _KeyFile(Section):
    keys: tuple[ApiKey, ...] = ()


class ApiKeyStore:
    """Keys in a JSON file.

    Several processes may read and write it: changes are made under a lock, and put in place whole. Readers
    see them with the next request.

    Args:
        path: The file; it comes into being with the first key.
    """

    def __init__(self, path: Path) -> None:
        """Read nothing yet."""
        self.path = path
        self._file: WatchedFile[Mapping[str, ApiKey]] = WatchedFile(path, _by_id, {})

    def find(self, presented: str) -> ApiKey | None:
        """The key that a caller presents; None where it is none, unknown, revoked or over.

        Which of these it was is not told to callers. Reads the file if it has changed.
        """
        match = _KEY.fullmatch(presented)
        record = self._file.value.get(match[1]) if match else None
        digest = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).hexdigest()
        same = hmac.compare_digest(digest, record.sha256 if record else _NOBODY)
        return record if same and record is not None and record.valid(datetime.now(UTC)) else None

    def holds(self, subject: str) -> bool:
        """Whether the key that stands for a caller (``key:ID``) still opens anything."""
        record = self._file.value.get(subject.removeprefix(KEY_SUBJECT))
        return record is not None and record.valid(datetime.now(UTC))

    def list(self) -> tuple[ApiKey, ...]:
        """All keys in the order of their making, revoked ones included.

        Raises:
            ApiKeyError: The file is broken or cannot be read.
        """
        return tuple(self._load().values())

    def create(self, scopes: Sequence[str], name: str, *, expires_in_days: float | None = None) -> NewApiKey:
        """Make a key.

        Args:
            scopes: What it opens: APIs (``embed``, ``classify``, ``generate``, ``kserve``) and models
                (``model:NAME``, ``model:*``).
            name: What it is for, such as ``ci``; the ID begins with it. Names may repeat.
            expires_in_days: When it ends by itself; None: it does not.

        Returns:
            The key, which is kept nowhere: show it now or never.

        Raises:
            UsageError: The name, a scope or the time is not allowed.
            ApiKeyError: The file is broken or cannot be written.
        """
        now = datetime.now(UTC).replace(microsecond=0)
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot name a key",
                where="name",
                mend="take lower-case letters, digits and hyphens, a letter first, 31 at most",
            )
        check_scopes(scopes)
        if expires_in_days is not None and not 0 < expires_in_days <= _MAX_DAYS:
            raise UsageError(
                f"a key cannot end in {expires_in_days:g} days",
                where="expires_in_days",
                mend=f"give more than 0, and {_MAX_DAYS} at most; or none, and it does not end",
            )
        expires = None if expires_in_days is None else now + timedelta(days=expires_in_days)
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        with self._changing() as keys:
            key_id = next(i for i in iter(lambda: f"{name}-{secrets.token_hex(3)}", "") if i not in keys)
            key = f"{PREFIX}{key_id}_{secret}"
            digest = hashlib.sha256(key.encode()).hexdigest()
            record = ApiKey(
                id=key_id, sha256=digest, scopes=tuple(dict.fromkeys(scopes)), created=now, expires=expires
            )
            keys[key_id] = record
        return NewApiKey(record, key)

    def revoke(self, key_id: str) -> ApiKey:
        """End a key for good; ending it twice changes nothing.

        Raises:
            ApiKeyError: There is no such key, or the file is broken or cannot be written.
        """
        with self._changing() as keys:
            if key_id not in keys:
                raise ApiKeyError(
                    f"no key {key_id!r}",
                    where=str(self.path),
                    mend="`tritonforge gateway keys list` shows every ID",
                )
            if keys[key_id].revoked is None:
                now = datetime.now(UTC).replace(microsecond=0)
                keys[key_id] = keys[key_id].model_copy(update={"revoked": now})
            return keys[key_id]

    def _load(self) -> dict[str, ApiKey]:
        try:
            return dict(_by_id(self.path.read_bytes()))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ApiKeyError(
                f"cannot be read: {error.strerror}", where=str(self.path), mend="mend its permissions"
            ) from error
        except ValueError as error:
            raise ApiKeyError(
                "is not a file of API keys", where=str(self.path), mend="put its last good version back"
            ) from error

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, ApiKey]]:
        """Give the keys to change, alone, and write them if that went well."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # The lock is a file of its own, for the file of keys is replaced with each change.
            lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                keys = self._load()
                before = dict(keys)
                yield keys
                if keys != before:
                    self._write(keys)
            finally:
                os.close(lock)
        except OSError as error:
            raise ApiKeyError(
                f"cannot be written: {first_line(error)}",
                where=str(self.path),
                mend="let this user write there",
            ) from error

    def _write(self, keys: Mapping[str, ApiKey]) -> None:
        content = _KeyFile(keys=tuple(keys.values())).model_dump(mode="json", exclude_none=True)
        write_private(self.path, json.dumps(content, indent=2) + "\n")


def check_scopes(scopes: Sequence[str]) -> None:
    """Refuse scopes that open nothing.

    Raises:
        UsageError: There is none, or one is unknown.
    """
    unknown = [scope for scope in scopes if not _SCOPE.fullmatch(scope)]
    if unknown or not scopes:
        raise UsageError(
            f"unknown scopes: {', '.join(map(repr, unknown))}" if unknown else "no scope is given",
            where="scope",
            mend=f"take {', '.join(API_SCOPES)}, model:NAME or model:*",
        )


def _by_id(content: bytes) -> dict[str, ApiKey]:
    """Read the file's bytes.

    Raises:
        ValueError: They are not what this module writes. It quotes nothing of them.
    """
    try:
        keys = _KeyFile.model_validate_json(content).keys
    except ValidationError as error:
        raise ValueError(f"{error.error_count()} faults") from None
    found = {key.id: key for key in keys}
    if len(found) != len(keys):
        raise ValueError("two keys of one ID")
    return found
