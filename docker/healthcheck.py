"""Health of a server in its container: exit status 0 if it is ready. Standard library only, no curl."""

from __future__ import annotations

import os
import sys
import urllib.request


def main() -> int:
    """Ask the URL that is given; else ``/v2/health/ready`` on ``TRITONFORGE_HTTP_PORT``, by default 8000."""
    port = os.environ.get("TRITONFORGE_HTTP_PORT", "8000")
    url = sys.argv[1] if len(sys.argv) > 1 else f"http://127.0.0.1:{port}/v2/health/ready"
    # A proxy in the environment must not be asked about loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=3):
            return 0
    except OSError as error:  # HTTP 400: not ready; refused: not listening yet
        sys.stderr.write(f"{url}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
