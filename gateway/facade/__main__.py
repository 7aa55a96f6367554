"""One facade process; the gateway's supervisor starts it: ``python -m gateway.facade RUN_FOLDER WORKER``."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from gateway.config import GatewayConfig
from gateway.facade.app import create_app
from gateway.paths import RunPaths


def main() -> None:
    """Serve on the sockets of a worker until SIGTERM."""
    paths, worker = RunPaths(Path(sys.argv[1])), int(sys.argv[2])
    config = GatewayConfig.model_validate_json(paths.config.read_text(encoding="utf-8"))
    uvicorn.run(
        create_app(config, f"unix:{paths.egress}"),
        uds=str(paths.facade_http(worker)),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        ws_ping_interval=config.websocket.ping_interval_s,
        ws_ping_timeout=config.websocket.ping_timeout_s,
        ws_max_size=config.limits.max_body_bytes,
        timeout_graceful_shutdown=int(config.resilience.drain_s),
    )


if __name__ == "__main__":
    main()
