from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serving import errors, ops
from serving.access.keyring import Keyring
from serving.access.keys import KeyStore
from serving.dashscope import routes as dashscope
from serving.engine.base import Engine
from serving.errors import EngineUnavailable, InvalidRequest, RouteNotFound, ServingError
from serving.layers.admitted import Admitted
from serving.layers.resolved import Resolved
from serving.media.images import Limits
from serving.settings import Settings
from serving.storage import database

log = logging.getLogger(__name__)


def layered(engine: Engine, settings: Settings) -> Engine:
    """The layers around the engine; a request meets the last one named here first."""
    engine = Admitted(
        engine,
        max_in_flight=settings.max_in_flight,
        max_queued=settings.max_queued,
        queue_timeout=settings.queue_timeout,
    )
    limits = Limits(settings.max_images, settings.max_image_bytes, settings.max_image_pixels, settings.decode_images)
    return Resolved(engine, limits)


def _log_failure(failure: EngineUnavailable) -> None:
    log.error("the engine will not start: %s", failure)


def create_app(
    settings: Settings, engine: Engine, *, on_engine_failure: Callable[[EngineUnavailable], None] = _log_failure
) -> Starlette:
    """The whole server. It answers at once, with 503 until the engine is ready; `on_engine_failure` is called when it
    is certain that it never will be."""
    records = database.at(settings.data)
    stack = layered(engine, settings)

    async def bring_up() -> None:
        try:
            await stack.start()
        except EngineUnavailable as failure:
            on_engine_failure(failure)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        await database.create_tables(records, settings.data)
        starting = asyncio.create_task(bring_up())
        try:
            yield
        finally:
            starting.cancel()
            await asyncio.wait([starting])
            await stack.aclose()
            await records.dispose()

    app = Starlette(
        routes=[*dashscope.routes(stack, Keyring(KeyStore(records)), settings), *ops.routes(stack)],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # the SDK's aio client posts to slashed URLs and does not repeat its body
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods in the cloud's form."""
    assert isinstance(error, HTTPException)
    refusal: ServingError = RouteNotFound()
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        refusal = InvalidRequest(f"Request method '{request.method}' is not supported.")
    return Response(errors.to_json(refusal, errors.new_request_id()), refusal.status, media_type="application/json")
