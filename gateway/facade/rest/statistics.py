"""``GET /stats``: what the servers are doing now."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.facade.bodies import json_response
from gateway.facade.state import call_of, facade_of
from gateway.triton.statistics import WINDOW_S, ModelFigures

router = APIRouter(tags=["models"])


class StatsAnswer(BaseModel):
    """Figures of models by name."""

    window_s: float = Field(description="seconds that rates and means look back at most", examples=[WINDOW_S])
    models: dict[str, ModelFigures]


@router.get("/stats", response_model=StatsAnswer, summary="Load of the models, live")
async def stats(request: Request) -> Response:
    """The models that the caller may use. Asked again within a second, the figures are the same."""
    call = call_of(request)
    figures = await facade_of(request).statistics.read()
    mine = {name: entry for name, entry in figures.items() if call.identity.may_use(name)}
    return json_response({"window_s": WINDOW_S, "models": mine}, call)
