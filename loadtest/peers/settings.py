"""Where a comparison keeps things, and what all its systems share."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loadtest.peers.system import Environment, Place, System

DEFAULT_PEERS = Path("build/peers")
DEFAULT_ROOT = Path("build/compare")


@dataclass(frozen=True)
class Setup:
    """Folders and the thread budget.

    Attributes:
        threads: Of each system's engine.
        peers: Environments of peers, and the models that they load.
        root: Results, logs, our own models.
    """

    threads: int
    peers: Path = DEFAULT_PEERS
    root: Path = DEFAULT_ROOT

    @property
    def models(self) -> Path:
        """Folder of the models that peers load."""
        return self.peers.absolute() / "models"

    @property
    def repository(self) -> Path:
        """Our own models."""
        return self.root.absolute() / "repository"

    def python(self, environment: Environment | None) -> Path:
        """Interpreter of an environment; ours without one."""
        # Not resolved: through its links Python would no longer know the environment.
        folder = self.peers.absolute()
        return folder / environment.name / "bin" / "python" if environment else Path(sys.executable)

    def work(self, system: System) -> Path:
        """Where a system's log and files are, from its last start."""
        return self.root.absolute() / "systems" / system.name

    def place(self, system: System, ports: Mapping[str, int]) -> Place:
        """What a system is told when it starts."""
        python = self.python(system.environment)
        return Place(ports, self.threads, python, self.models, self.work(system))
