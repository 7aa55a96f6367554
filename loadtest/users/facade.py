"""Users of the front door's REST and OpenAI APIs."""

from __future__ import annotations

import time
from typing import Any

from loadtest.users.base import Answer, RequestError
from loadtest.users.http import JsonUser, streamed

_ENCODERS = {
    "embedding": ("/embed", "embedding", "embeddings"),
    "classification": ("/classify", "label", "results"),
}


class RestUser(JsonUser):
    """``/embed`` and ``/classify``, with several texts their ``/batch``; ``/predict`` of a generator."""

    protocol = "REST"

    def ask(self, texts: list[str]) -> Answer:
        """Ask what the model is for."""
        if self.generates:
            body = {"text": texts[0], "model": self.model, "max_length": self.options.tokens}
            found, size = self.post("/predict", body)
            return Answer(int(found["tokens_generated"]), size)
        path, one, many = _ENCODERS[self.options.task]
        if len(texts) == 1:
            found, size = self.post(path, {"text": texts[0], "model": self.model})
            rows = 1 if one in found else 0
        else:
            found, size = self.post(f"{path}/batch", {"texts": texts, "model": self.model})
            rows = len(found[many])
        if rows != len(texts):
            raise RequestError(f"{rows} answers to {len(texts)} texts")
        return Answer(rows, size)


class OpenAiUser(JsonUser):
    """``/v1/embeddings``; ``/v1/chat/completions`` of a generator, streamed."""

    protocol = "OpenAI"

    def ask(self, texts: list[str]) -> Answer:
        """Ask what the model is for."""
        if not self.generates:
            found, size = self.post("/v1/embeddings", {"model": self.model, "input": texts})
            if len(found["data"]) != len(texts):
                raise RequestError(f"{len(found['data'])} vectors of {len(texts)} texts")
            return Answer(len(texts), size)
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": texts[0]}],
            "max_tokens": self.options.tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }
        start = time.perf_counter()
        return streamed(start, self.post_stream("/v1/chat/completions", body), _has_text, _usage)


def _has_text(event: dict[str, Any]) -> bool:
    return any(choice["delta"].get("content") for choice in event["choices"])


def _usage(event: dict[str, Any]) -> int | None:
    usage = event.get("usage")
    return int(usage["completion_tokens"]) if usage else None
