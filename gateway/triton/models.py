"""Which models are served, and what each is for.

A model declares its task in its configuration (parameter ``task``; for classification ``labels`` too), as
`tritonforge build` writes it. Parts of an ensemble declare none and are not listed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
import grpc.aio
import structlog
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc.service_pb2 import ModelConfigRequest, RepositoryIndexRequest

from gateway.config import GatewayConfig
from gateway.errors import ApiError
from gateway.identity import POOL_HEADER
from gateway.triton.channel import TritonChannel

logger = structlog.get_logger(__name__)

REFRESH_S = 5.0
_CALL_S = 5.0
_ASK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Model:
    """A served model.

    Attributes:
        name: What callers name.
        task: ``embedding``, ``classification``, ``generation``, or one that this gateway does not know.
        pool: The servers that hold it.
        version: The version that answers.
        max_batch_size: Texts of one request to Triton; 0 where requests are not batched by rows.
        labels: Of a classifier, in the order of its scores.
        private: Answers must not be shared between callers (recipe: ``cache.private``).
        counts_tokens: The model can say how many tokens a text has (output ``token_count``).
        width: Numbers in an embedding; None for other tasks.
    """

    name: str
    task: str
    pool: str
    version: str
    max_batch_size: int
    labels: tuple[str, ...] = ()
    private: bool = False
    counts_tokens: bool = False
    width: int | None = None

    @classmethod
    def from_config(cls, config: pb.ModelConfig, pool: str, version: str) -> Model | None:
        """Read a model's configuration; None where it declares no task."""
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        task = parameters.get("task", "")
        served = config.platform == "ensemble" or config.model_transaction_policy.decoupled
        if not task or not served:
            return None
        outputs = {output.name: tuple(output.dims) for output in config.output}
        labels = json.loads(parameters.get("labels", "[]"))
        return cls(
            name=config.name,
            task=task,
            pool=pool,
            version=version,
            max_batch_size=config.max_batch_size,
            labels=tuple(labels),
            private=parameters.get("cache_private") == "true",
            counts_tokens="token_count" in outputs,
            width=outputs["embedding"][-1] if "embedding" in outputs else None,
        )


class ModelDirectory:
    """What the pools serve, read again every few seconds.

    Args:
        channel: The way to the servers.
        config: Pools and what each serves.
    """

    def __init__(self, channel: TritonChannel, config: GatewayConfig) -> None:
        """Start empty; :meth:`refresh` fills it."""
        self._channel = channel
        self._config = config
        self._models: dict[str, Model] = {}
        self._away: dict[str, str] = {pool.name: "not asked yet" for pool in config.pools}
        self._asked = float("-inf")
        self._lock = asyncio.Lock()

    @property
    def models(self) -> Mapping[str, Model]:
        """Served models by name."""
        return self._models

    @property
    def faults(self) -> Mapping[str, str]:
        """Pools that could not be asked, and why."""
        return self._away

    async def refresh(self) -> None:
        """Ask every pool; one that cannot be asked keeps what it had."""
        self._asked = time.monotonic()
        found = await asyncio.gather(
            *(self._ask(pool.name) for pool in self._config.pools), return_exceptions=True
        )
        models: dict[str, Model] = {}
        for pool, answer in zip(self._config.pools, found, strict=True):
            if isinstance(answer, BaseException):
                if not isinstance(answer, grpc.aio.AioRpcError):
                    raise answer
                reason = answer.details() or answer.code().name
                if pool.name not in self._away:
                    logger.warning("pool_unreachable", pool=pool.name, reason=reason)
                self._away[pool.name] = reason
                models |= {m.name: m for m in self._models.values() if m.pool == pool.name}
            else:
                self._away.pop(pool.name, None)
                models |= answer
        self._models = models

    async def run(self) -> None:
        """Refresh for ever."""
        while True:
            try:
                async with self._lock:
                    await self.refresh()
            except Exception:
                logger.exception("models_not_read")
            await asyncio.sleep(REFRESH_S)

    async def ask_again(self) -> None:
        """Refresh, unless that was done within the last second."""
        if time.monotonic() - self._asked > _ASK_AGAIN_S:
            async with self._lock:
                if time.monotonic() - self._asked > _ASK_AGAIN_S:
                    await self.refresh()

    async def find(self, name: str | None, task: str) -> Model:
        """The model that a caller means.

        Args:
            name: Its name; None where the caller leaves it open and one model does the task.
            task: What it must be for.

        Raises:
            ApiError: There is none, or it does something else.
        """
        if name is None:
            return self._only(task)
        if name not in self._models:
            await self.ask_again()  # it may have been loaded a moment ago
        model = self._models.get(name)
        if model is None:
            raise ApiError(
                "model_not_found",
                f"no model {name} is served",
                field="model",
                mend="GET /v1/models lists what is served",
            )
        if model.task != task:
            raise ApiError(
                "wrong_task",
                f"{name} is for {model.task}, not {task}",
                field="model",
                mend="GET /v1/models lists what each model is for",
            )
        return model

    def _only(self, task: str) -> Model:
        fitting = sorted(model.name for model in self._models.values() if model.task == task)
        if len(fitting) == 1:
            return self._models[fitting[0]]
        if not fitting:
            raise ApiError("model_not_found", f"no model for {task} is served", mend="serve one")
        raise ApiError(
            "missing_field",
            f"several models do {task}",
            field="model",
            mend=f"name one of {', '.join(fitting)}",
        )

    async def _ask(self, pool: str) -> dict[str, Model]:
        metadata = [(POOL_HEADER, pool)]
        stub = self._channel.stub
        index = await stub.RepositoryIndex(
            RepositoryIndexRequest(ready=True), timeout=_CALL_S, metadata=metadata
        )
        versions: dict[str, str] = {}
        for entry in index.models:
            served = self._config.pool_of(entry.name)
            if served is not None and served.name == pool:
                versions[entry.name] = max(versions.get(entry.name, "0"), entry.version or "1", key=int)
        known = {m.name: m for m in self._models.values() if m.pool == pool}
        models: dict[str, Model] = {}
        for name, version in versions.items():
            if name in known and known[name].version == version:
                models[name] = known[name]
                continue
            answer = await stub.ModelConfig(ModelConfigRequest(name=name), timeout=_CALL_S, metadata=metadata)
            # Triton's protobuf and tritonclient's share the names of their messages.
            model = Model.from_config(answer.config, pool, version)
            if model is not None:
                models[name] = model
        return models
