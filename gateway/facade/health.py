"""Whether the facade lives, and whether what it serves is ready."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import ApiError
from gateway.facade.bodies import json_response
from gateway.facade.state import facade_of

router = APIRouter(tags=["health"])


@router.get("/health", summary="Whether this process lives")
async def health() -> Response:
    """Always 200 where there is an answer at all."""
    return json_response({"status": "ok"})


@router.get("/ready", summary="Whether the servers and their models are ready")
async def ready(request: Request) -> Response:
    """200 with the models, or 503 with the pools that do not answer."""
    directory = facade_of(request).models
    await directory.ask_again()
    if directory.faults or not directory.models:
        reasons = [f"pool {pool}: {reason}" for pool, reason in directory.faults.items()]
        raise ApiError(
            "unavailable",
            "; ".join(reasons) or "no model is served",
            mend="look at the servers' /v2/health/ready",
            retry_after_s=1,
        )
    return json_response({"status": "ready", "models": sorted(directory.models)})
