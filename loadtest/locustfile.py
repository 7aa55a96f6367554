"""Locust users that embed or classify texts through Triton, over gRPC and over HTTP.

Run it with a window in the browser, or headless::

    locust -f loadtest/locustfile.py --grpc-url localhost:8001 --http-url localhost:8000 --model minilm
    locust -f loadtest/locustfile.py --headless -u 64 -r 16 -t 60s GrpcUser

``GrpcUser`` or ``HttpUser`` at the end takes one protocol only. Every option is an environment
variable as well: ``TRITON_GRPC_URL``, ``TRITON_HTTP_URL``, ``TRITON_MODEL``, ``TRITON_LENGTH_MIX``,
``TRITON_TEXTS_PER_REQUEST``, ``TRITON_TIMEOUT``.

Each user is a closed loop: it sends its next request when the last was answered. One locust process
is one Python thread; add ``--processes`` when it uses a whole core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count, cycle
from typing import Any

import grpc.experimental.gevent as grpc_gevent
import numpy as np
import tritonclient.grpc
import tritonclient.http
from locust import User, constant, events, task
from locust.env import Environment
from tritonclient.utils import InferenceServerException

from loadtest.corpus import DEFAULT_MIX, LengthMix, make_texts

# Locust has patched the standard library for gevent when it loads this file. gRPC's core has threads
# of its own and would block all users during each call; this has it wait through gevent instead.
grpc_gevent.init_gevent()

TEXTS = 2000

_seeds = count()  # users send different texts, and the same ones in every run


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_arguments(parser: Any) -> None:
    """Add the options to locust's own."""
    group = parser.add_argument_group("Triton")
    for name, kind, default, text in (
        ("grpc-url", str, "localhost:8001", "host:port of the gRPC endpoint"),
        ("http-url", str, "localhost:8000", "host:port of the HTTP endpoint"),
        ("model", str, "minilm", "model to call"),
        ("length-mix", str, DEFAULT_MIX, "lengths of the texts: tokens:weight,tokens:weight,…"),
        ("texts-per-request", int, 1, "texts in a request"),
        ("timeout", float, 30.0, "seconds after which a request has failed"),
    ):
        variable = "TRITON_" + name.upper().replace("-", "_")
        group.add_argument(f"--{name}", env_var=variable, type=kind, default=default, help=text)


class TritonUser(User):
    """What both protocols share: texts, timing, and reporting to locust."""

    abstract = True
    wait_time = constant(0)
    protocol = ""
    tensors: Any

    def __init__(self, environment: Environment) -> None:
        """Prepare this user's texts and connect."""
        super().__init__(environment)
        options: Any = environment.parsed_options
        self.model: str = options.model
        self.timeout: float = options.timeout
        size: int = options.texts_per_request
        texts = make_texts(TEXTS, LengthMix.parse(options.length_mix), seed=next(_seeds))
        # Whole requests only, of `size` texts each.
        self.batches = cycle(texts[start : start + size] for start in range(0, TEXTS - size + 1, size))
        self.connect(options)

    def connect(self, options: Any) -> None:
        """Open the connection."""
        raise NotImplementedError

    def infer(self, inputs: Sequence[Any]) -> Any:
        """Send one request and return tritonclient's result."""
        raise NotImplementedError

    @task
    def send(self) -> None:
        """Send the next texts, and check that each got its row."""
        texts = next(self.batches)
        text = self.tensors.InferInput("text", [len(texts), 1], "BYTES")
        text.set_data_from_numpy(np.array([[t.encode()] for t in texts], dtype=np.object_))
        self.measure(lambda: self.infer([text]), len(texts))

    def measure(self, call: Callable[[], Any], rows: int) -> None:
        """Time ``call`` and report it to locust, as a failure if it raises or answers wrongly."""
        failure: Exception | None = None
        size = 0
        start = time.perf_counter()
        try:
            result = call()
        except InferenceServerException as error:
            # Locust reports the repr of an exception, and this one's is empty.
            failure = RuntimeError(str(error))
        except Exception as error:
            failure = error
        milliseconds = (time.perf_counter() - start) * 1000
        if failure is None:
            outputs = [result.as_numpy(name) for name in self.output_names(result)]
            size = sum(output.nbytes for output in outputs)
            if not outputs or any(output.shape[0] != rows for output in outputs):
                failure = ValueError(f"expected {rows} rows, got {[output.shape for output in outputs]}")
        self.environment.events.request.fire(
            request_type=self.protocol,
            name=f"{self.model} x{rows}",
            response_time=milliseconds,
            response_length=size,
            exception=failure,
            context=self.context(),
        )

    @staticmethod
    def output_names(result: Any) -> list[str]:
        """Return the names of the outputs that a result holds, of either protocol."""
        response = result.get_response()
        outputs = response["outputs"] if isinstance(response, dict) else response.outputs
        return [output["name"] if isinstance(output, dict) else output.name for output in outputs]


class GrpcUser(TritonUser):
    """One user over gRPC, with a connection of its own."""

    protocol = "gRPC"
    tensors = tritonclient.grpc

    def connect(self, options: Any) -> None:
        """Open a channel. gRPC would share one connection between equal channels of a process."""
        from tritonclient.grpc import MAX_GRPC_MESSAGE_SIZE as LARGEST

        self.client = tritonclient.grpc.InferenceServerClient(
            options.grpc_url,
            channel_args=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_send_message_length", LARGEST),
                ("grpc.max_receive_message_length", LARGEST),
            ],
        )

    def infer(self, inputs: Sequence[Any]) -> Any:
        """Send one request."""
        return self.client.infer(self.model, inputs, client_timeout=self.timeout)

    def on_stop(self) -> None:
        """Close the channel, and drop it now.

        tritonclient closes once more when the object is collected. At the end of the process, when
        gevent's loop is gone, that can wait for ever.
        """
        self.client.close()
        del self.client


class HttpUser(TritonUser):
    """One user over HTTP, with a connection of its own."""

    protocol = "HTTP"
    tensors = tritonclient.http

    def connect(self, options: Any) -> None:
        """Open a connection pool of one connection. tritonclient's HTTP client is built on gevent itself."""
        self.client = tritonclient.http.InferenceServerClient(
            options.http_url, connection_timeout=self.timeout, network_timeout=self.timeout
        )

    def infer(self, inputs: Sequence[Any]) -> Any:
        """Send one request."""
        return self.client.infer(self.model, inputs)

    def on_stop(self) -> None:
        """Close the connection."""
        self.client.close()
