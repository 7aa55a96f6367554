"""``GET /v1/models``: what the caller may use."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import ApiError
from gateway.facade.bodies import json_response
from gateway.facade.openai.answers import ModelAnswer, ModelList
from gateway.facade.state import Facade, call_of, facade_of
from gateway.identity import Identity
from gateway.triton.models import Model

router = APIRouter()


@router.get("/v1/models", summary="Models that the caller may use", responses={200: {"model": ModelList}})
async def list_models(request: Request) -> Response:
    """As OpenAI's endpoint of that name; each also tells its task."""
    facade, identity = facade_of(request), call_of(request).identity
    models = sorted(facade.models.models.items())
    return json_response(
        {"object": "list", "data": [_shown(model) for _, model in models if _open(facade, model, identity)]}
    )


@router.get("/v1/models/{name}", summary="One model", responses={200: {"model": ModelAnswer}})
async def get_model(request: Request, name: str) -> Response:
    """One that the caller may not use looks like one that is not there."""
    facade, identity = facade_of(request), call_of(request).identity
    model = facade.models.models.get(name)
    if model is None or not _open(facade, model, identity):
        raise ApiError(
            "model_not_found",
            f"no model {name} is served to you",
            field="model",
            mend="GET /v1/models lists what is",
        )
    return json_response(_shown(model))


def _open(facade: Facade, model: Model, identity: Identity) -> bool:
    """Whether a caller has the scopes of the model and of the API for its task."""
    services = (facade.embedding, facade.classification, facade.generation)
    api = next((service.scope for service in services if service.task == model.task), "kserve")
    return api in identity.scopes and identity.may_use(model.name)


def _shown(model: Model) -> dict[str, Any]:
    """``created`` is always 0: Triton does not tell when a model was made."""
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "tritonforge",
        "task": model.task,
        "version": model.version,
        "dimensions": model.width,
        "labels": list(model.labels),
    }
