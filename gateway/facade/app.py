"""The ASGI application of one facade process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway import tracing
from gateway.config import GatewayConfig
from gateway.errors import ApiError
from gateway.facade import docs, health, internal, metrics, openai, page, rest, websocket
from gateway.facade.grpc.server import start_grpc
from gateway.facade.logs import NameRequests
from gateway.facade.openapi import DESCRIPTION, SUMMARY, TAGS, document
from gateway.facade.problems import answer_api_error, answer_fault, answer_http_error, problem_response
from gateway.facade.state import open_facade
from gateway.facade.tracing import TraceRequests
from gateway.facade.validation import validation_error
from tritonforge import __version__


def create_app(config: GatewayConfig, target: str, grpc_address: str | None = None) -> FastAPI:
    """Put the APIs together.

    Args:
        config: ``gateway.yaml``.
        target: Where KServe v2 gRPC is spoken: ``unix:`` and Envoy's inner socket, or a server's address.
        grpc_address: Where to serve gRPC besides; None: nowhere.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tracing.start(config.tracing)
        async with open_facade(config, target) as facade:
            app.state.facade = facade
            server = await start_grpc(facade, grpc_address) if grpc_address else None
            yield
            if server is not None:
                await server.stop(config.resilience.drain_s)
        await asyncio.to_thread(tracing.stop)

    app = FastAPI(
        title="tritonforge",
        summary=SUMMARY,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        version=__version__,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if config.facade.docs else None,
    )
    app.add_exception_handler(ApiError, answer_api_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(Exception, answer_fault)
    app.add_middleware(metrics.CountRequests)
    app.add_middleware(NameRequests)
    app.add_middleware(TraceRequests)  # the last is the outermost
    for room in (health, rest, openai, websocket, internal, metrics, page):
        app.include_router(room.router)
    if config.facade.docs:
        app.include_router(docs.router)
    document(app, config)
    return app


async def _answer_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(validation_error(error), request.url.path)
