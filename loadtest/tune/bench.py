"""One setting on one real server: started, loaded, stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from loadtest.tune.goal import Goal, Look
from loadtest.tune.load import Load
from loadtest.tune.published import PublishedModel
from tritonforge.recipe import Recipe
from tritonforge.server import ServerOptions, TritonServer

_FIRST_LOOK_S = 1.0  # or as long as a level, if that is shorter
_SEEDS = 100  # of each measurement


@dataclass(frozen=True)
class Bench:
    """Serves and measures.

    Attributes:
        model: What is served.
        goal: The levels, and where to stop.
        load: The tool.
        work: For repositories and the server's log.
        seconds: To measure at each level.
        start_timeout: Seconds that a server may take to start.
    """

    model: PublishedModel
    goal: Goal
    load: Load
    work: Path
    seconds: float
    start_timeout: float = 120.0

    def measure(
        self, recipe: Recipe, seed: int, decisive: Look | None, noise: float = 0.0
    ) -> tuple[list[Look], bool]:
        """Start a server with a recipe's settings and load it.

        A short first look warms the server up. With an SLO, the levels end at the first that misses it.

        Args:
            recipe: The settings.
            seed: Of the texts.
            decisive: The default's figures at the level of the first look, to give up on what is far behind;
                None: never give up.
            noise: By which share two looks at the default differ.

        Returns:
            The looks in order of levels, and whether they are all; else there is the first look alone.

        Raises:
            TritonForgeError: It cannot be served, or the load failed.
        """
        with self._served(recipe) as server:
            level = self.goal.levels[-1] if decisive is None else decisive.level
            # Other texts for each look, or a generator would know the prompts' beginnings.
            seeds = count(_SEEDS * seed)
            first = self.load(server, level, seconds=self._first_look_s, seed=next(seeds))
            if decisive is not None and self.goal.hopeless(first, decisive, noise):
                return [first], False
            looks = []
            for level in self.goal.levels:
                looks.append(self.load(server, level, seconds=self.seconds, seed=next(seeds)))
                if not self.goal.met_by(looks[-1]):
                    break
            return looks, True

    @property
    def _first_look_s(self) -> float:
        """Answers of generators take long, so less than the whole would hold too few."""
        return self.seconds if self.load.generates else min(_FIRST_LOOK_S, self.seconds)

    @contextmanager
    def _served(self, recipe: Recipe) -> Iterator[TritonServer]:
        # Without a response cache: texts that come again would be answered from it.
        options = ServerOptions(
            http_port=0, grpc_port=0, metrics_port=0, exit_timeout_s=5, cache_size_bytes=0
        )
        with (
            self.model.repository(recipe, self.work) as repository,
            (self.work / "server.log").open("wb") as log,
        ):
            server = TritonServer(repository, options, log_sink=log, die_with_caller=True)
            try:
                server.start(self.start_timeout)
                yield server
            finally:
                server.stop()
