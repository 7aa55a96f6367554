"""One facade process; the gateway's supervisor starts it.

``python -m gateway.facade RUN_FOLDER WORKER LOG_LEVEL``
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import uvicorn

from gateway.config import GatewayConfig
from gateway.facade.app import create_app
from gateway.facade.logs import once_only
from gateway.facade.serving import server_options
from gateway.logs import configure_logs
from gateway.paths import RunPaths


def main() -> None:
    """Serve on the sockets of a worker until SIGTERM."""
    paths, worker, level = RunPaths(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
    config = GatewayConfig.model_validate_json(paths.config.read_text(encoding="utf-8"))
    configure_logs("facade", level, config.logs.style, worker=worker)
    logging.getLogger("uvicorn.error").addFilter(once_only)
    uvicorn.run(
        create_app(config, f"unix:{paths.egress}", f"unix:{paths.facade_grpc(worker)}"),
        uds=str(paths.facade_http(worker)),
        **server_options(config),
    )


if __name__ == "__main__":
    main()
