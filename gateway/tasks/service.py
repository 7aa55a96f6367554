"""What stands before every model, whatever its task."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.guards.protocols import Answers, Limiter, TextScreen
from gateway.tasks.call import Call
from gateway.triton.channel import TritonChannel
from gateway.triton.models import Model, ModelDirectory


class Service:
    """Asks models of one task, by way of scopes, screen, limits and kept answers.

    Args:
        channel: The way to the servers.
        models: What is served.
        limiter: Shared limits.
        screen: Denied patterns.
        answers: Kept answers.
    """

    task: str
    """What a model must declare."""
    scope: str
    """What a caller must have."""

    def __init__(
        self,
        channel: TritonChannel,
        models: ModelDirectory,
        limiter: Limiter,
        screen: TextScreen,
        answers: Answers,
    ) -> None:
        """Keep the ways in."""
        self._channel = channel
        self._models = models
        self._limiter = limiter
        self._screen = screen
        self._answers = answers

    async def _admit(self, call: Call, name: str | None, texts: Sequence[str], field: str) -> Model:
        """Check what can be checked before the model is asked, and count the request.

        Raises:
            ApiError: The caller may not, the model is not there, a text or a limit forbids it.
        """
        model = await self._models.find(name, self.task)
        call.identity.require(self.scope, model.name)
        self._screen.check(texts, field)
        await self._limiter.admit(call)
        return model
