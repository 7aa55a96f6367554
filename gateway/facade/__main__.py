"""One facade process; the gateway's supervisor starts it: ``python -m gateway.facade RUN_FOLDER WORKER``."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from gateway.config import GatewayConfig
from gateway.facade.app import create_app
from gateway.facade.logs import configure_logs
from gateway.facade.serving import server_options
from gateway.paths import RunPaths


def main() -> None:
    """Serve on the sockets of a worker until SIGTERM."""
    configure_logs()
    paths, worker = RunPaths(Path(sys.argv[1])), int(sys.argv[2])
    config = GatewayConfig.model_validate_json(paths.config.read_text(encoding="utf-8"))
    uvicorn.run(
        create_app(config, f"unix:{paths.egress}", f"unix:{paths.facade_grpc(worker)}"),
        uds=str(paths.facade_http(worker)),
        **server_options(config),
    )


if __name__ == "__main__":
    main()
