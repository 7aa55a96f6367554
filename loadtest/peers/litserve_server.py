"""LitServe with sentence-transformers and its dynamic batching."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.peers.embedder import BACKEND, BATCH, ENGINE, environment, plain_way, variables
from loadtest.peers.system import PROGRAMS, Place, Precision, Process, System


def _system(precision: Precision) -> System:
    name, title = f"litserve-{precision}", f"LitServe, {BACKEND[precision]}"

    def processes(place: Place) -> Sequence[Process]:
        command = [str(place.python), str(PROGRAMS / "litserve_server.py")]
        ready = f"http://127.0.0.1:{place.ports['http']}/health"
        return [Process(command, ready, variables(place, precision), place.work)]

    return System(
        name=name,
        title=title,
        precision=precision,
        engine=ENGINE[precision],
        batching=f"its dynamic batching, {BATCH} at most",
        ways=(plain_way(name, title, "/predict"),),
        processes=processes,
        model=precision,
        environment=environment("litserve", "litserve==0.2.19"),
    )


SYSTEMS = (_system("fp32"), _system("int8"))
