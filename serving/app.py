from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import dialects, openapi, ops
from serving.access import assembly as access
from serving.budget import Budget
from serving.cache.servers import store_of
from serving.compatible import routes as compatible
from serving.compatible.batch.service import BatchService
from serving.compatible.batch.trial import KIND as BATCH_TEST
from serving.compatible.batch.work import KIND as BATCH_LINE
from serving.dashscope import resources, tasks
from serving.dashscope import routes as dashscope
from serving.dashscope.tasks import Tasks
from serving.endpoint import Call
from serving.engine import replicas
from serving.engine.base import Engine
from serving.engine.drained import Drained
from serving.engine.embedded import Embedded
from serving.errors import EngineUnavailable, RouteNotFound
from serving.exchange import Exchange
from serving.intake import Intake
from serving.jobs.queue import Queue
from serving.jobs.run import Kind
from serving.jobs.workers import Workers
from serving.layers.admitted import Admitted
from serving.layers.cached import Cached
from serving.layers.compilable import Compilable
from serving.layers.keeping import Keeping, recorder_of
from serving.layers.layer import within
from serving.layers.limited import Limited
from serving.layers.permitted import Inspected, Permitted
from serving.layers.resolved import Resolved
from serving.layers.separated import Separated
from serving.media import assembly
from serving.media.service import Media
from serving.metrics import Metrics, Observed, prices_of
from serving.once import Once
from serving.settings import Settings
from serving.storage import database
from serving.storage.assembly import Storage
from serving.tracing import tracing_of
from serving.webhooks.secrets import SecretStore
from serving.webhooks.service import Webhooks

log = logging.getLogger(__name__)

BASES = "Base URLs end in /api/v1 (DashScope), /compatible-mode/v1 or /v1 (OpenAI)."
"""A client that is given another one asks for paths that are not there."""


def layered(engine: Engine, settings: Settings, media: Media, keeping: Keeping) -> Engine:
    """The layers around the engine; a request meets the last one named here first."""
    if not settings.cache_shared:
        engine = Separated(engine)
    engine = Admitted(
        engine,
        max_in_flight=settings.max_in_flight,
        max_queued=settings.max_queued,
        queue_timeout=settings.queue_timeout,
        max_pixels=settings.max_pixels_in_flight,
    )
    store = store_of(settings)
    if store is not None:
        revision = settings.cache_revision or settings.model or ""
        engine = Cached(engine, store, keep_all=settings.cache_all, shared=settings.cache_shared, revision=revision)
    engine = Resolved(Inspected(keeping.inside(engine)), media)
    engine = Compilable(Permitted(engine))
    engine = Limited(engine, access.ledger_of(settings), access.quota_of(settings))
    return keeping.outside(engine)


def _log_failure(failure: EngineUnavailable) -> None:
    log.error("the engine will not start: %s", failure)


def create_app(
    settings: Settings,
    engine: Engine,
    *,
    on_engine_failure: Callable[[EngineUnavailable], None] = _log_failure,
    operators: socket.socket | None = None,
    stopping: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.time,
) -> Router:
    """The whole server. It answers at once, with 503 until the engine is ready; `on_engine_failure` is called when it
    is certain that it never will be. `operators` is the listening socket of their port, if they have one; while
    `stopping`, the server is not ready. `clock` tells seconds since the epoch, for what outlives a process; what begins
    and ends in one is measured by a clock that nobody can set."""
    records = database.at(settings.data, settings.database_url)
    storage = Storage(records, settings, clock)

    def model_folder() -> Path | None:
        return engine.folder if isinstance(engine, Embedded) else None

    recorder = recorder_of(settings, records, storage.objects, clock)
    media = assembly.media(settings, model_folder=model_folder, uploads=storage.uploads)
    stack = layered(engine, settings, media, Keeping(settings, recorder))
    keyring = access.keyring_of(settings, records, clock)
    queue = Queue(records, lambda: int(clock() * 1e3))
    batches = BatchService(records, queue, storage.files, stack, keyring, settings, clock)
    chats = Tasks(queue, stack, keyring, settings)
    kinds: dict[str, Kind] = {tasks.KIND: chats, BATCH_LINE: batches.work, BATCH_TEST: batches.trial}
    workers = Workers(
        queue, kinds, folder=settings.data, concurrency=settings.background_concurrency, ready=stack.ready
    )

    webhooks = Webhooks(queue, SecretStore(records, clock), settings)

    metrics = Metrics(stack, settings.served_models, prices_of(settings), queue.backlog, webhooks.deliveries.counts)
    probes = ops.routes(stack, stopping)
    tracing = tracing_of()

    def observe(call: Call) -> None:
        metrics.observe(call)
        if tracing is not None:
            tracing.observe(call)

    async def bring_up() -> None:
        try:
            await stack.start()
        except EngineUnavailable as failure:
            on_engine_failure(failure)
        except Exception as defect:
            log.exception("the start of the engine failed")
            on_engine_failure(EngineUnavailable(f"{type(defect).__name__}: {defect}"))

    @asynccontextmanager
    async def lifespan(_: ASGIApp) -> AsyncGenerator[None, None]:
        await database.create_tables(records, settings.data)
        starting = asyncio.create_task(bring_up())
        await storage.start()
        if recorder is not None:
            await recorder.start()
        await workers.start()
        await webhooks.start()
        await batches.start()
        try:
            async with ops.admin(operators, [*probes, *replicas.routes(stack, Drained(settings.data))], metrics.text):
                yield
        finally:
            await batches.aclose()
            await workers.aclose()
            await webhooks.aclose()
            starting.cancel()
            await asyncio.wait([starting])
            await stack.aclose()
            if recorder is not None:
                await recorder.aclose()
            await storage.aclose()
            await database.close(records)
            if tracing is not None:
                await tracing.aclose()

    once = Once(storage.claims, patience=settings.request_timeout)
    limited = next(layer for layer in within(stack) if isinstance(layer, Limited))
    routes = [
        *dashscope.routes(stack, keyring, settings, once, chats.submit if settings.async_tasks else None),
        *resources.routes(engine, storage, keyring, limited, settings),
        *tasks.routes(chats, keyring),
        *compatible.routes(stack, keyring, settings, files=storage.files, batches=batches.endpoints, once=once),
        *openapi.routes(),
        *probes,
    ]
    # A router alone: the endpoints answer their own errors, and the layers that an application adds cost as much CPU as
    # parsing a request. Slashed paths are not redirected, because the SDK's aio client does not repeat its body.
    intake = Intake(Budget(settings.max_bodies_bytes, patience=0), settings.body_timeout)
    return Observed(observe, routes, intake=intake, default=_not_found, lifespan=lifespan, redirect_slashes=False)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    exchange = Exchange(scope, receive, send)
    refusal = RouteNotFound(BASES)
    await exchange.answer(refusal.status, dialects.to_json(refusal, exchange.request_id))
