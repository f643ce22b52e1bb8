from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from serving.cache import answers
from serving.cache.keys import key_of, repeats_itself
from serving.cache.store import Store
from serving.engine.base import Engine
from serving.errors import EngineUnavailable, ServingError
from serving.generation import Chunk, Generation
from serving.layers.layer import Layer

log = logging.getLogger(__name__)

LARGEST = 1_000_000
"""Bytes of an answer that is kept; Memcached takes no item beyond 1 MiB."""

Arm: TypeAlias = Literal["hit", "joined", "miss", "bypass"]
"""What became of a request: one that "joined" was answered by what another had asked for."""


@dataclass(eq=False, slots=True)
class Flight:
    """One answer that several wait for, as far as it has come."""

    chunks: list[Chunk] = field(default_factory=list)
    readers: int = 0
    ended: bool = False
    error: Exception | None = None
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    """Of those who have read all that has come. An `asyncio.Event` costs as much for each chunk as all layers do."""

    def add(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self._wake()

    def end(self, error: Exception | None = None) -> None:
        self.error, self.ended = error, True
        self._wake()

    def _wake(self) -> None:
        waiting, self.waiting = self.waiting, []
        for waiter in waiting:
            if not waiter.done():  # by being cancelled
                waiter.set_result(None)

    async def read(self) -> AsyncGenerator[Chunk, None]:
        """All chunks from the first on, as they come. Raises what ended the flight."""
        at, loop = 0, asyncio.get_running_loop()
        while True:
            while at < len(self.chunks):
                yield self.chunks[at]
                at += 1
            if self.ended:
                break
            waiter = loop.create_future()
            self.waiting.append(waiter)
            await waiter
        if self.error is not None:
            raise self.error


class Cached(Layer):
    """Answers what was answered before, and asks the engine once for what several ask at the same time.

    The flight of an answer belongs to none of them: it goes on as long as one who waits for it is there. Where it fails
    before its first chunk, those who had joined ask again, together; where it fails later, it fails for all.
    """

    def __init__(
        self, engine: Engine, store: Store, *, keep_all: bool = False, shared: bool = False, revision: str = ""
    ) -> None:
        """`keep_all` keeps answers that would vary, too; `shared` gives the answers of one key to others; `revision`
        sets the answers of one model apart from those of another by the same name."""
        super().__init__(engine)
        self.store = store
        self.counts: dict[Arm, int] = {"hit": 0, "joined": 0, "miss": 0, "bypass": 0}
        self._keep_all = keep_all
        self._shared = shared
        self._revision = revision
        self._flights: dict[tuple[bytes, str], tuple[Flight, asyncio.Task[None]]] = {}
        self._landing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self.store.start()
        await super().start()

    async def aclose(self) -> None:
        await super().aclose()
        if self._landing:
            await asyncio.wait(self._landing)
        await self.store.aclose()

    def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        if generation.caching == "never" or not (self._keep_all or repeats_itself(generation)):
            key = None
        else:
            key = key_of(generation, shared=self._shared, revision=self._revision)
        if key is None:
            self._count("bypass", generation)
            return self._engine.generate(generation)
        if generation.caching == "refresh":
            self._count("bypass", generation)
            return self._refreshed(key, generation)
        return self._answer(key, generation)

    async def _answer(self, key: bytes, generation: Generation) -> AsyncGenerator[Chunk, None]:
        if (kept := await self._kept(key)) is not None:
            self._count("hit", generation)
            for chunk in kept:
                yield chunk
            return
        for again in (True, False):
            joined = (key, generation.priority) in self._flights
            self._count("joined" if joined else "miss", generation)
            async with self._aboard(key, generation) as flight:
                try:
                    async with aclosing(flight.read()) as chunks:
                        async for chunk in chunks:
                            yield chunk
                    return
                except ServingError as error:
                    if not (joined and again and error.retryable) or flight.chunks:
                        raise

    @asynccontextmanager
    async def _aboard(self, key: bytes, generation: Generation) -> AsyncGenerator[Flight, None]:
        """Joins the flight of the answer, or begins it. Nobody interactive waits for one in the background."""
        name = (key, generation.priority)
        if name not in self._flights:
            begun = Flight()
            task = asyncio.create_task(self._fly(name, generation, begun))
            self._landing.add(task)
            task.add_done_callback(self._landing.discard)
            self._flights[name] = begun, task
        flight, task = self._flights[name]
        flight.readers += 1
        try:
            yield flight
        finally:
            flight.readers -= 1
            if flight.readers == 0 and not flight.ended:
                self._land(name, flight)
                task.cancel()
                await asyncio.wait([task])

    async def _fly(self, name: tuple[bytes, str], generation: Generation, flight: Flight) -> None:
        try:
            async with aclosing(self._engine.generate(generation)) as chunks:
                async for chunk in chunks:
                    flight.add(chunk)
        except Exception as error:
            self._land(name, flight)
            flight.end(error)
        except asyncio.CancelledError:
            self._land(name, flight)
            flight.end(EngineUnavailable())
            raise
        else:
            flight.end()
            await self._keep(name[0], flight.chunks)
            self._land(name, flight)

    def _land(self, name: tuple[bytes, str], flight: Flight) -> None:
        if name in self._flights and self._flights[name][0] is flight:
            del self._flights[name]

    async def _refreshed(self, key: bytes, generation: Generation) -> AsyncGenerator[Chunk, None]:
        seen: list[Chunk] = []
        async with aclosing(self._engine.generate(generation)) as chunks:
            async for chunk in chunks:
                seen.append(chunk)
                yield chunk
        await self._keep(key, seen)

    async def _kept(self, key: bytes) -> list[Chunk] | None:
        kept = await self.store.get(key)
        return None if kept is None else answers.decode(kept)

    async def _keep(self, key: bytes, chunks: list[Chunk]) -> None:
        data = answers.encode(chunks)
        if len(data) <= LARGEST:
            await self.store.set(key, data)

    def _count(self, arm: Arm, generation: Generation) -> None:
        self.counts[arm] += 1
        generation.timeline.cached = "hit" if arm == "joined" else arm
