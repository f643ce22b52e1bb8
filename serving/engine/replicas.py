"""What operators see and do of the engines of a pool: on their port, and with `homescope-server replicas`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import click
import orjson
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serving import dialects
from serving.console import give_up, read_settings, table
from serving.engine import discovery
from serving.engine.base import Engine
from serving.engine.drained import Drained
from serving.engine.pool import Pool
from serving.errors import InvalidRequest, RouteNotFound, ServingError
from serving.exchange import Exchange
from serving.layers.layer import within


def shown(engine: Engine) -> list[dict[str, Any]]:
    """The engines of the pool; none where there is no pool."""
    pools = [layer for layer in within(engine) if isinstance(layer, Pool)]
    return [
        {
            "url": replica.url,
            "ready": replica.ready,
            "draining": replica.draining,
            "breaker": replica.breaker.state,
            "in_flight": replica.outstanding,
        }
        for pool in pools
        for replica in pool.replicas
    ]


def routes(engine: Engine, drained: Drained) -> list[Route]:
    """GET /replicas, and POST /replicas/drain and /replicas/restore with ?url=."""

    async def listed() -> list[dict[str, Any]]:
        return shown(engine)

    return routes_of(listed, drained)


def routes_of(listed: Callable[[], Any], drained: Drained) -> list[Route]:
    """`listed` tells the replicas, as `shown` does."""

    async def get(exchange: Exchange) -> None:
        await exchange.answer(200, orjson.dumps({"replicas": await listed()}))

    def change(draining: bool) -> Callable[[Exchange], Any]:
        async def post(exchange: Exchange) -> None:
            url = exchange.query.get("url", "")
            known = [each["url"] for each in await listed()]
            if url not in known:
                raise InvalidRequest(f"url names one of the replicas, {', '.join(known) or 'of which there are none'}")
            await asyncio.to_thread(drained.add if draining else drained.remove, url)
            await exchange.answer(200, orjson.dumps({"url": url, "draining": draining}))

        return post

    return [
        Route("/replicas", Endpoint("GET", get)),
        Route("/replicas/drain", Endpoint("POST", change(True))),
        Route("/replicas/restore", Endpoint("POST", change(False))),
    ]


class Endpoint:
    """One method on one path of the operators' port."""

    def __init__(self, method: str, serve: Callable[[Exchange], Any]) -> None:
        self._method = method
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            if exchange.method != self._method:
                raise RouteNotFound
            await self._serve(exchange)
        except ServingError as error:
            await exchange.answer(error.status, dialects.to_json(error, exchange.request_id))


@click.group("replicas")
def replicas_group() -> None:
    """The engines that share the work."""


@replicas_group.command("list")
def list_command() -> None:
    """Show the engines of the settings, and which of them are drained."""
    chosen = read_settings()
    drained = Drained(chosen.data).read()
    rows = [(url, "drained" if url in drained else "in use") for url in sorted({*chosen.engine_urls, *drained})]
    click.echo(table(("URL", "STATE"), rows))


@replicas_group.command()
@click.argument("url")
def drain(url: str) -> None:
    """Give the engine at URL nothing new; a running server follows within two seconds, and what it has to do ends."""
    _check(url)
    _change(url, lambda drained: drained.add(url))
    click.echo(f"{url} is given nothing new; homescope_replica_in_flight tells when it has nothing left to do")


@replicas_group.command()
@click.argument("url")
def restore(url: str) -> None:
    """Give the engine at URL its share of the work again."""
    if url not in Drained(read_settings().data).read():
        give_up(f"{url} is not drained; `homescope-server replicas list` shows which are")
    _change(url, lambda drained: drained.remove(url))
    click.echo(f"{url} is in use again")


def _check(url: str) -> None:
    """Addresses behind a name are not known here."""
    known = read_settings().engine_urls
    if url not in known and not any(discovery.is_name(each) for each in known):
        give_up(f"{url} is none of HOMESCOPE_ENGINE_URLS: {', '.join(known) or 'there are none'}")


def _change(url: str, change: Callable[[Drained], None]) -> None:
    chosen = read_settings()
    try:
        change(Drained(chosen.data))
    except OSError as error:
        give_up(f"cannot note in {chosen.data} what becomes of {url}: {error.strerror}")
