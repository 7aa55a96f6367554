"""Triton's entry point of a generation model."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ..logs import RequestLog, line, origin, place
from ..metrics import Meters
from ..tracing import start_tracer
from . import metrics
from .chat import ChatTemplate, ChatTemplateError, parse_messages
from .job import Job, Piece
from .loop import GenerationLoop, QueueFullError
from .protocol import Failure, Generator
from .request import BadRequestError, GenerationRequest, parse_request, read_inputs
from .room import settle_max_tokens
from .settings import GeneratorSettings
from .text import TextStream, Vocabulary
from .tracing import JobTrace

_BROKEN_EXIT = 70  # EX_SOFTWARE


class TritonPythonModel:
    """Prompts or conversations to streamed text; see the inputs in :mod:`.request`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load tokenizer, chat template and engine, create the metrics, start the loop.

        Args:
            args: Triton's description of the model: ``model_config`` (JSON), ``model_repository``
                (the model's folder), ``model_name``, ``model_version``.

        Raises:
            SettingsError: A parameter is missing or not allowed.
        """
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one prompt at a time; the cores are the engine's
        self._settings = settings = GeneratorSettings.parse(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()  # what cannot fit is refused, not cut in silence
        self._tokenizer.no_padding()
        self._vocabulary = Vocabulary(self._tokenizer)
        self._chat = ChatTemplate.from_folder(folder)
        self._codes = {
            Failure.INVALID: pb_utils.TritonError.INVALID_ARG,
            Failure.UNAVAILABLE: pb_utils.TritonError.UNAVAILABLE,
            Failure.TIMEOUT: pb_utils.TritonError.UNAVAILABLE,
            Failure.CANCELLED: pb_utils.TritonError.CANCELLED,
            Failure.ENGINE: pb_utils.TritonError.INTERNAL,
        }
        self._stop_token_ids = frozenset(settings.stop_token_ids)
        self._tracer = start_tracer(args["model_name"], pb_utils.Logger.log_warn)
        engine = load_engine(folder, settings)
        self._kv_tokens = engine.kv_tokens
        self._meters: Meters = metrics.create_meters(pb_utils, args)
        self._loop = GenerationLoop(engine, settings.max_num_seqs, settings.queue, self._meters, _give_up)
        self._log = RequestLog(pb_utils.Logger, args["model_name"])
        pb_utils.Logger.log_info(
            line(
                "generator_loaded",
                model=args["model_name"],
                engine=settings.engine,
                precision=settings.precision,
                max_num_seqs=settings.max_num_seqs,
                max_length=settings.max_length,
                kv_tokens=engine.kv_tokens,
            )
        )

    def execute(self, requests: list[Any]) -> None:
        """Put each request into the loop's line; the answers come from there."""
        for request in requests:
            reply = _TritonReply(request, self._codes, self._log)
            try:
                self._loop.submit(self._job(request, reply))
            except (BadRequestError, ChatTemplateError) as error:
                self._refuse(reply, Failure.INVALID, str(error))
            except QueueFullError as error:
                self._refuse(reply, Failure.UNAVAILABLE, str(error))
            except Exception as error:  # a bug: it must concern this request only, and be answered
                self._refuse(
                    reply,
                    Failure.ENGINE,
                    f"the request failed: {type(error).__name__}: {error}",
                    place(error),
                )

    def finalize(self) -> None:
        """Finish what runs, turn away what waits, hand over the last counts."""
        self._loop.close()
        self._meters.close()
        if self._tracer is not None:
            self._tracer.close()

    def _refuse(self, reply: _TritonReply, failure: Failure, message: str, logged: str | None = None) -> None:
        self._meters.add({metrics.finished(failure.value): 1})
        reply.fail(failure, message, logged)

    def _job(self, request: Any, reply: _TritonReply) -> Job:
        """Check a request, make its prompt of tokens, and settle how long the answer may become.

        Raises:
            BadRequestError: A parameter is wrong, or the prompt leaves no room.
            ChatTemplateError: The messages are wrong, or the model has no template.
        """
        trace = self._trace(request)
        asked = parse_request(read_inputs(partial(_read, request)), self._settings.max_text_bytes)
        text, prompt = self._prompt(asked)
        if trace is not None:
            trace.queued()
        return Job(
            prompt=prompt,
            params=settle_max_tokens(asked, len(prompt), self._settings, self._kv_tokens),
            text=TextStream(self._vocabulary, asked.stop),
            reply=reply,
            stream=asked.stream,
            echo=text if asked.echo else "",
            stop_token_ids=self._stop_token_ids,
            deadline=self._deadline(request),
            trace=trace,
        )

    def _trace(self, request: Any) -> JobTrace | None:
        """The spans of a request that Triton traces."""
        context = self._tracer.context(request) if self._tracer is not None else None
        return JobTrace(self._tracer, context) if self._tracer is not None and context else None

    def _prompt(self, asked: GenerationRequest) -> tuple[str, NDArray[np.int64]]:
        """The prompt as text and as token ids, int64 [tokens]."""
        if asked.messages is not None:
            text = self._chat.render(parse_messages(asked.messages, max_bytes=self._settings.max_text_bytes))
            special = False  # the template writes them itself
        else:
            text, special = asked.text or "", self._settings.add_special_tokens
        ids = self._tokenizer.encode(text, add_special_tokens=special).ids
        if not ids:
            raise BadRequestError("the prompt is empty: it makes no token")
        return text, np.array(ids, dtype=np.int64)

    def _deadline(self, request: Any) -> float | None:
        """By when the request must have left the line, as ``time.monotonic()``; None for no limit."""
        queue = self._settings.queue
        asked = request.timeout() if queue.allow_timeout_override else 0
        timeout_us = asked or queue.timeout_us
        return time.monotonic() + timeout_us / 1e6 if timeout_us else None


def load_engine(folder: Path, settings: GeneratorSettings) -> Generator:
    """Load the engine that the settings name; each has an import of its own."""
    if settings.engine == "tensorrt-llm":
        from .tensorrt_llm import TensorRtLlmGenerator

        return TensorRtLlmGenerator(folder, settings)
    from .openvino_genai import OpenVinoGenerator

    return OpenVinoGenerator(folder, settings)


class _TritonReply:
    """A client behind Triton's response sender."""

    def __init__(self, request: Any, codes: dict[Failure, Any], log: RequestLog) -> None:
        self._sender = request.get_response_sender()
        self._wanted = frozenset(request.requested_output_names())
        self._codes = codes
        self._log = log
        self._origin = origin(request)

    def send(self, piece: Piece) -> None:
        """Send the outputs that were asked for; those of the whole answer go with the last piece only."""
        wanted, tensor = self._wanted, pb_utils.Tensor
        outputs = []
        if "text_output" in wanted:
            outputs.append(tensor("text_output", np.array([piece.text.encode()], dtype=np.object_)))
        if "token_ids" in wanted:
            outputs.append(tensor("token_ids", np.array(piece.token_ids, dtype=np.int32)))
        if piece.log_probs and "log_probs" in wanted:
            outputs.append(tensor("log_probs", np.array(piece.log_probs, dtype=np.float32)))
        if piece.finish is None:
            self._sender.send(pb_utils.InferenceResponse(outputs))
            return
        if "finish_reason" in wanted:
            reason = piece.finish.value.encode()
            outputs.append(tensor("finish_reason", np.array([reason], dtype=np.object_)))
        for name in ("prompt_tokens", "completion_tokens"):
            if name in wanted:
                outputs.append(tensor(name, np.array([getattr(piece, name)], dtype=np.int32)))
        self._sender.send(
            pb_utils.InferenceResponse(outputs), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        )

    def fail(self, failure: Failure, message: str, logged: str | None = None) -> None:
        """Send an error and nothing more; ``logged`` is for the log, where the message may hold a text."""
        if failure is Failure.ENGINE:
            self._log.failed(self._origin, logged or message)
        elif failure is not Failure.CANCELLED:
            self._log.refused(self._origin, failure.value)
        error = pb_utils.TritonError(message, self._codes[failure])
        self._sender.send(
            pb_utils.InferenceResponse(error=error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        )

    def gone(self) -> bool:
        """Ask Triton whether the client has cancelled."""
        return bool(self._sender.is_cancelled())


def _read(request: Any, name: str) -> NDArray[Any] | None:
    """An input's values, None where it was not sent."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _give_up(message: str) -> None:
    """End the process: Triton then refuses requests, and `tritonforge serve` loads the model anew."""
    pb_utils.Logger.log_error(line("model_gave_up", error=message, effect="the model is loaded anew"))
    os._exit(_BROKEN_EXIT)
