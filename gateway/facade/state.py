"""What one facade process holds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import HTTPConnection

from gateway.config import GatewayConfig
from gateway.guards.answers import AnswerCache
from gateway.guards.open_sockets import OpenSockets
from gateway.guards.screen import PromptScreen
from gateway.guards.shared_limits import SharedLimiter
from gateway.security.api_keys import ApiKeyStore
from gateway.security.jwks import KeySet
from gateway.tasks.call import Call
from gateway.tasks.classification import ClassificationService
from gateway.tasks.embedding import EmbeddingService
from gateway.tasks.generation import GenerationService
from gateway.triton.channel import TritonChannel
from gateway.triton.models import ModelDirectory
from gateway.triton.statistics import Statistics


@dataclass(frozen=True, slots=True)
class Facade:
    """Everything that handlers need; one for a process.

    Attributes:
        config: ``gateway.yaml``.
        channel: The way to the servers.
        models: What is served.
        limiter: Limits shared over replicas.
        screen: Denied patterns.
        keys: API keys; None where the configuration names none.
        key_sets: Public keys by issuer, of those whose keys lie in a file.
        answers: Kept answers.
        embedding: Vectors.
        classification: Labels.
        generation: Text. A further task is a further service here.
        statistics: Live figures of the models.
        sockets: Open WebSockets.
    """

    config: GatewayConfig
    channel: TritonChannel
    models: ModelDirectory
    limiter: SharedLimiter
    screen: PromptScreen
    keys: ApiKeyStore | None
    key_sets: Mapping[str, KeySet]
    answers: AnswerCache
    embedding: EmbeddingService
    classification: ClassificationService
    generation: GenerationService
    statistics: Statistics
    sockets: OpenSockets


@contextlib.asynccontextmanager
async def open_facade(config: GatewayConfig, target: str) -> AsyncIterator[Facade]:
    """Open the ways to servers and Redis, and keep the list of models fresh.

    Args:
        config: ``gateway.yaml``.
        target: Where KServe v2 gRPC is spoken: Envoy's inner socket, or in tests a server.
    """
    channel = TritonChannel(target)
    models = ModelDirectory(channel, config)
    limiter = SharedLimiter(config.limits.shared)
    answers = AnswerCache(config.cache)
    screen = PromptScreen(config.screen)
    parts = (channel, models, limiter, screen, answers)
    auth = config.auth
    facade = Facade(
        config,
        channel,
        models,
        limiter,
        screen,
        ApiKeyStore(Path(auth.api_keys.file)) if auth.api_keys else None,
        {issuer.name: KeySet(Path(issuer.jwks_file)) for issuer in auth.issuers if issuer.jwks_file},
        answers,
        EmbeddingService(*parts),
        ClassificationService(*parts),
        GenerationService(*parts),
        Statistics(channel, models),
        OpenSockets(config.websocket),
    )
    await models.refresh()
    refreshing = asyncio.create_task(models.run())
    try:
        yield facade
    finally:
        refreshing.cancel()
        await asyncio.gather(refreshing, return_exceptions=True)
        await answers.close()
        await limiter.close()
        await channel.close()


def facade_of(connection: HTTPConnection) -> Facade:
    """The facade that serves a request or a WebSocket."""
    facade: Facade = connection.app.state.facade
    return facade


def call_of(connection: HTTPConnection, *, streams: bool = False) -> Call:
    """Who asks and until when.

    Raises:
        ApiError: As for :meth:`Call.from_headers`.
    """
    return Call.from_headers(connection.headers, facade_of(connection).config, streams=streams)
