"""BentoML with sentence-transformers and its adaptive batching."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.peers.embedder import BACKEND, BATCH, ENGINE, environment, variables
from loadtest.peers.system import PROGRAMS, Place, Precision, Process, System, Way


def _system(precision: Precision) -> System:
    name, title = f"bentoml-{precision}", f"BentoML, {BACKEND[precision]}"

    def processes(place: Place) -> Sequence[Process]:
        port = place.ports["http"]
        command = [str(place.python.with_name("bentoml")), "serve", "bentoml_service:Embedder"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(PROGRAMS)]
        settings = {"BENTOML_HOME": str(place.work), "BENTOML_DO_NOT_TRACK": "true"}
        ready = f"http://127.0.0.1:{port}/readyz"
        return [Process(command, ready, variables(place, precision) | settings, place.work)]

    way = Way(
        name=name,
        title=title,
        path="/embed",
        body=lambda text: {"texts": [text]},
        read=lambda answer: answer[0],
        answer="JSON: the numbers alone",
    )
    return System(
        name=name,
        title=title,
        precision=precision,
        engine=ENGINE[precision],
        batching=f"its adaptive batching, {BATCH} at most",
        ways=(way,),
        processes=processes,
        model=precision,
        environment=environment("bentoml", "bentoml==1.4.40"),
    )


SYSTEMS = (_system("fp32"), _system("int8"))
