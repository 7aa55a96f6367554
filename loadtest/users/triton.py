"""Users of encoders over Triton's own protocols, through tritonclient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from loadtest.users.base import Answer, LoadUser, RequestError


class TritonUser(LoadUser):
    """What both protocols share."""

    abstract = True
    tensors: ClassVar[Any]

    def infer(self, inputs: Sequence[Any]) -> Any:
        """Send one request and return tritonclient's result."""
        raise NotImplementedError

    def ask(self, texts: list[str]) -> Answer:
        """Send the texts, and check that each got its row."""
        text = self.tensors.InferInput(self.options.text_input, [len(texts), 1], "BYTES")
        text.set_data_from_numpy(np.array([[t.encode()] for t in texts], dtype=np.object_))
        refusal = ""
        try:
            result = self.infer([text])
        except InferenceServerException as error:
            refusal = f"{error.status() or 'error'}: {error.message()}"[:200]
        if refusal:  # not within `except`: the cause would keep the client alive, which see `on_stop`
            raise RequestError(refusal)
        outputs = [result.as_numpy(name) for name in _output_names(result)]
        if not outputs or any(output.shape[0] != len(texts) for output in outputs):
            raise RequestError(f"expected {len(texts)} rows, got {[output.shape for output in outputs]}")
        return Answer(len(texts), sum(output.nbytes for output in outputs))


class GrpcUser(TritonUser):
    """One user over gRPC, with a connection of its own."""

    protocol = "gRPC"
    tensors = tritonclient.grpc

    def connect(self) -> None:
        """Open a channel. gRPC would share one connection between equal channels of a process."""
        from tritonclient.grpc import MAX_GRPC_MESSAGE_SIZE as LARGEST

        self.client = tritonclient.grpc.InferenceServerClient(
            self.options.grpc_url,
            channel_args=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_send_message_length", LARGEST),
                ("grpc.max_receive_message_length", LARGEST),
            ],
        )

    def infer(self, inputs: Sequence[Any]) -> Any:
        """Send one request."""
        headers = dict(self.credentials)
        return self.client.infer(self.model, inputs, client_timeout=self.timeout, headers=headers)

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

    def connect(self) -> None:
        """Open a connection pool of one connection. tritonclient's HTTP client is built on gevent itself."""
        self.client = tritonclient.http.InferenceServerClient(
            self.options.http_url, connection_timeout=self.timeout, network_timeout=self.timeout
        )

    def infer(self, inputs: Sequence[Any]) -> Any:
        """Send one request."""
        return self.client.infer(self.model, inputs, headers=dict(self.credentials))

    def on_stop(self) -> None:
        """Close the connection."""
        self.client.close()


def _output_names(result: Any) -> list[str]:
    """Names of the outputs that a result of either protocol holds."""
    response = result.get_response()
    outputs = response["outputs"] if isinstance(response, dict) else response.outputs
    return [output["name"] if isinstance(output, dict) else output.name for output in outputs]
