from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterable
from contextlib import aclosing
from typing import Any

from serving.engine import discovery, spread
from serving.engine.base import Engine
from serving.engine.replica import Replica
from serving.engine.tokens import Tokens
from serving.engine.vllm import RETRY_AFTER
from serving.errors import EngineUnavailable, Overloaded
from serving.generation import Chunk, Generation

log = logging.getLogger(__name__)

MAX_TRIES = 3
"""Replicas that one request is sent to: one that kills engines shall not take all of them with it."""


class Pool:
    """Several engines as one. What a replica cannot begin to answer is answered by another."""

    def __init__(
        self,
        urls: Iterable[str],
        connect: Callable[[str], Engine],
        *,
        resolve: discovery.Resolve = discovery.resolve,
        resolve_every: float = 5.0,
        drain_timeout: float = 300.0,
        drained: Callable[[], Collection[str]] = frozenset,
        look_every: float = 1.0,
    ) -> None:
        """`urls` are addresses of engines, for `connect`, or names with an address for each: dns+http://host:port,
        looked up again every `resolve_every` seconds. A replica whose address is gone gets `drain_timeout` seconds.
        Those that are `drained`, which is looked at every `look_every` seconds, are given nothing new."""
        self._drained = drained
        self._look_every = look_every
        self._urls = tuple(urls)
        self._connect = connect
        self._resolve = resolve
        self._resolve_every = resolve_every
        self._drain_timeout = drain_timeout
        self._replicas: dict[str, Replica] = {}
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def replicas(self) -> tuple[Replica, ...]:
        return tuple(self._replicas.values())

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        tried: set[Replica] = set()
        while True:
            replica = self._choose(generation, tried)
            tried.add(replica)
            begun = False
            try:
                async with aclosing(replica.generate(generation)) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield chunk
                return
            except (EngineUnavailable, Overloaded):
                if begun or len(tried) == MAX_TRIES or not self._usable(tried):
                    raise
                log.warning("request %s goes to another engine than %s", generation.request_id, replica.url)

    async def tokenize(self, text: str) -> Tokens:
        """As one of the replicas has it: they serve the same model."""
        usable = self._usable(set())
        if not usable:
            raise EngineUnavailable(retry_after=RETRY_AFTER)
        return await min(usable, key=lambda replica: replica.weight).tokenize(text)

    async def ready(self) -> bool:
        return any(replica.ready and replica.usable for replica in self.replicas)

    async def start(self) -> None:
        """Returns once each replica has been probed; those that are not ready yet are watched."""
        await self._refresh()
        await self.heed()
        await asyncio.gather(*(replica.probe() for replica in self.replicas))
        self._spawn(self._heed_for_ever())
        if any(discovery.is_name(url) for url in self._urls):
            self._spawn(self._follow())

    async def aclose(self) -> None:
        tasks = [*self._tasks, *self._watching.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._watching.clear()
        replicas, self._replicas = self.replicas, {}
        for replica in replicas:
            await replica.aclose()

    async def heed(self) -> None:
        """Drains what is to be drained, and takes back what is not any more."""
        drained = await asyncio.to_thread(self._drained)
        for replica in self.replicas:
            if replica.draining != (replica.url in drained):
                replica.draining = not replica.draining
                log.warning("engine at %s is %s", replica.url, "drained" if replica.draining else "in use again")

    async def _heed_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._look_every)
            await self.heed()

    def _choose(self, generation: Generation, tried: set[Replica]) -> Replica:
        usable = self._usable(tried)
        if not usable:
            raise EngineUnavailable(retry_after=RETRY_AFTER)
        return spread.choose(generation, usable)

    def _usable(self, tried: set[Replica]) -> list[Replica]:
        """Those that are ready; if none is, those that no request has failed at: probes can be wrong, too."""
        usable = [replica for replica in self._replicas.values() if replica.usable and replica not in tried]
        return [replica for replica in usable if replica.ready] or usable

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._resolve_every)
            await self._refresh()

    async def _refresh(self) -> None:
        """Brings the replicas in line with the names. Where a name cannot be looked up nothing changes."""
        try:
            wanted = [each for url in self._urls for each in await discovery.expand(url, self._resolve)]
        except OSError as error:
            log.warning("the engines cannot be looked up: %s", error)
            return
        for url in dict.fromkeys(wanted):
            if url not in self._replicas:
                await self._add(url)
        for url in self._replicas.keys() - set(wanted):
            self._spawn(self._retire(url))

    async def _add(self, url: str) -> None:
        replica = Replica(url, self._connect(url))
        await replica.start()
        self._replicas[url] = replica
        self._watching[url] = asyncio.create_task(replica.watch())

    async def _retire(self, url: str) -> None:
        replica = self._replicas.pop(url)
        self._watching.pop(url).cancel()
        replica.draining = True
        try:
            async with asyncio.timeout(self._drain_timeout):
                await replica.drained()
        except TimeoutError:
            log.warning("answers of the engine at %s are cut off", url)
        finally:
            await replica.aclose()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
