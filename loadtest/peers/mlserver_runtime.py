"""MLServer with sentence-transformers as a custom runtime, and its adaptive batching."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.peers.embedder import BACKEND, BATCH, ENGINE, environment, variables
from loadtest.peers.system import (
    KSERVE_ANSWER,
    Place,
    Precision,
    Process,
    System,
    Way,
    kserve_body,
    kserve_read,
)

# From uvloop 0.22 on, MLServer's workers end as they start: they ask for an event loop before there is one.
_ENVIRONMENT = environment("mlserver", "mlserver==1.7.1", "uvloop==0.21.0")


def _system(precision: Precision) -> System:
    name, title = f"mlserver-{precision}", f"MLServer, {BACKEND[precision]}"

    def processes(place: Place) -> Sequence[Process]:
        settings = {
            "MLSERVER_DEBUG": "false",  # as in production: no access log
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": str(place.ports["http"]),
            "MLSERVER_GRPC_PORT": str(place.ports["grpc"]),
            "MLSERVER_METRICS_PORT": str(place.ports["metrics"]),
            "MLSERVER_MODEL_NAME": "m",
            "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_runtime.Embedder",
            "MLSERVER_MODEL_MAX_BATCH_SIZE": str(BATCH),
            "MLSERVER_MODEL_MAX_BATCH_TIME": "0.005",  # 0 turns batching off
        }
        command = [str(place.python.with_name("mlserver")), "start", str(place.work)]
        ready = f"http://127.0.0.1:{place.ports['http']}/v2/models/m/ready"
        return [Process(command, ready, variables(place, precision) | settings, place.work)]

    way = Way(
        name=name,
        title=title,
        path="/v2/models/m/infer",
        body=kserve_body,
        read=kserve_read,
        answer=KSERVE_ANSWER,
    )
    return System(
        name=name,
        title=title,
        precision=precision,
        engine=ENGINE[precision],
        batching=f"its adaptive batching, {BATCH} at most, 5 ms at most",
        ways=(way,),
        processes=processes,
        model=precision,
        environment=_ENVIRONMENT,
        ports=("http", "grpc", "metrics"),
    )


SYSTEMS = (_system("fp32"), _system("int8"))
