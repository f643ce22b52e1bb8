from collections.abc import Awaitable, Callable

import orjson
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serving import errors
from serving.engine.base import Engine
from serving.errors import InvalidRequest
from serving.exchange import Exchange

METHODS = ("GET", "HEAD")


def routes(engine: Engine) -> list[Route]:
    """Probes for people and orchestrators; no key needed, nothing told but yes or no."""

    async def livez(exchange: Exchange) -> None:
        await exchange.answer(200, orjson.dumps({"status": "alive"}))

    async def readyz(exchange: Exchange) -> None:
        if await engine.ready():
            await exchange.answer(200, orjson.dumps({"status": "ready"}))
        else:
            await exchange.answer(503, orjson.dumps({"status": "the engine is not ready"}), {"retry-after": "2"})

    return [Route("/livez", Probe(livez)), Route("/readyz", Probe(readyz))]


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
        await exchange.answer(405, errors.to_json(refusal, exchange.request_id), {"allow": ", ".join(METHODS)})
