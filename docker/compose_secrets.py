"""Makes the secrets of ``docker/compose.yaml``, once: ``python docker/compose_secrets.py``.

Passwords are random, and only for this machine. What is there already stays. The folder is for its owner
alone; the files in it are readable by all, since containers, into which they are mounted, run as other users.
"""

from __future__ import annotations

import argparse
import hashlib
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).with_name("secrets")
# Nobody listens there, so that an alert is not sent anywhere until you say where.
UNSET = {"pagerduty_routing_key": "not-set", "slack_webhook_url": "http://127.0.0.1:9/not-set"}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the secrets of docker/compose.yaml.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where they go")
    folder: Path = parser.parse_args().folder
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    made = [path.name for path in make(folder)]
    sys.stdout.write(f"{folder}: {', '.join(made) if made else 'all there already'}\n")
    unset = [name for name, value in UNSET.items() if (folder / name).read_text().strip() == value]
    if unset:
        sys.stdout.write(f"alerts reach nobody until you fill in: {', '.join(unset)}\n")
    return 0


def make(folder: Path) -> list[Path]:
    """Write the files that are missing.

    Args:
        folder: It exists.

    Returns:
        Those that were written.
    """
    files = {"grafana_admin_password": secrets.token_urlsafe(24), **UNSET}
    # Redis and its client share a password, so these two are written together or not at all.
    pair = ("redis.acl", "gateway.env")
    if not all((folder / name).exists() for name in pair):
        password = secrets.token_urlsafe(32)
        digest = hashlib.sha256(password.encode()).hexdigest()
        allowed = "~* resetchannels -@all +@connection +@read +@write +@scripting -@dangerous"
        users = [
            "user default off",
            "user health on nopass resetkeys resetchannels -@all +ping",
            f"user gateway on #{digest} {allowed}",
        ]
        (folder / pair[0]).unlink(missing_ok=True)
        (folder / pair[1]).unlink(missing_ok=True)
        files["redis.acl"] = "\n".join(users)
        files["gateway.env"] = f"TRITONFORGE_REDIS_URL=redis://gateway:{password}@redis:6379/0"
    written = []
    for name, text in files.items():
        path = folder / name
        if not path.exists():
            path.write_text(f"{text}\n")
            path.chmod(0o444)
            written.append(path)
    return written


if __name__ == "__main__":
    sys.exit(main())
