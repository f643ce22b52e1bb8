from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

import orjson
import uvicorn
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from serving import dialects
from serving.engine.base import Engine
from serving.errors import InvalidRequest
from serving.exchange import Exchange

METHODS = ("GET", "HEAD")
EXPOSITION = b"text/plain; version=0.0.4; charset=utf-8"


def routes(engine: Engine, stopping: Callable[[], bool]) -> list[Route]:
    """Probes for people and orchestrators; no key needed, nothing told but yes or no.

    While the server is `stopping` it is not ready, so that requests go elsewhere while the running ones end.
    """

    async def livez(exchange: Exchange) -> None:
        await exchange.answer(200, orjson.dumps({"status": "alive"}))

    async def readyz(exchange: Exchange) -> None:
        if stopping():
            await exchange.answer(503, orjson.dumps({"status": "the server is stopping"}))
        elif await engine.ready():
            await exchange.answer(200, orjson.dumps({"status": "ready"}))
        else:
            await exchange.answer(503, orjson.dumps({"status": "the engine is not ready"}), {"retry-after": "2"})

    return [Route("/livez", Probe(livez)), Route("/readyz", Probe(readyz))]


@asynccontextmanager
async def admin(
    listener: socket.socket | None, routes: list[Route], metrics: Callable[[], Awaitable[bytes]]
) -> AsyncGenerator[None, None]:
    """Serves /metrics and the `routes` on the port for operators, if there is one."""
    if listener is None:
        yield
        return

    async def scrape(exchange: Exchange) -> None:
        await exchange.answer(200, await metrics(), content_type=EXPOSITION)

    app = Router([*routes, Route("/metrics", Probe(scrape))], redirect_slashes=False)
    server = _Beside(
        uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True
        await serving


class _Beside(uvicorn.Server):
    """A server that leaves the signals of the process to the one it stands beside."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class Probe:
    """An endpoint that only reads. Other methods are told so as every refusal is, as JSON."""

    def __init__(self, serve: Callable[[Exchange], Awaitable[None]]) -> None:
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        if exchange.method in METHODS:
            await self._serve(exchange)
            return
        refusal = InvalidRequest(f"Request method '{exchange.method}' is not supported.")
        await exchange.answer(405, dialects.to_json(refusal, exchange.request_id), {"allow": ", ".join(METHODS)})
