"""What all answers of chat and completions begin with, and their usage."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from gateway.tasks.generation import End
from gateway.triton.models import Model


def frame(prefix: str, kind: str, model: Model) -> dict[str, Any]:
    """The members that every chunk repeats.

    Args:
        prefix: Of the identifier: ``chatcmpl`` or ``cmpl``.
        kind: OpenAI's ``object``.
        model: Its name and version are the fingerprint.
    """
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model.name,
        "system_fingerprint": f"{model.name}@{model.version}",
    }


def usage(ends: Mapping[int, End], choices: int) -> dict[str, int]:
    """Tokens of a request; a prompt counts once, however many answers it got.

    Args:
        ends: How each answer ended, by its place.
        choices: Answers to each prompt.
    """
    prompt = sum(end.prompt_tokens for place, end in ends.items() if place % choices == 0)
    completion = sum(end.completion_tokens for end in ends.values())
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
