from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from serving.engine.base import Engine
from serving.errors import Overloaded
from serving.generation import Chunk, Generation
from serving.layers.layer import Layer

RETRY_AFTER = 2
"""Seconds. Clients cap the header at 8; a full queue of short answers moves on in less."""


class Admitted(Layer):
    """Lets `max_in_flight` generations through at a time, lets `max_queued` wait in order, refuses the rest at once.

    The permit lives as long as the stream: whatever ends it, an end, an error or a client that left, gives it back.
    """

    def __init__(self, engine: Engine, *, max_in_flight: int, max_queued: int, queue_timeout: float) -> None:
        """`queue_timeout` in seconds; a generation that waited for so long is refused as if the queue were full."""
        super().__init__(engine)
        self._permits = asyncio.Semaphore(max_in_flight)
        self._max_queued = max_queued
        self._queue_timeout = queue_timeout
        self.queued = 0
        self.in_flight = 0

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        async with self._permit(), aclosing(self._engine.generate(generation)) as chunks:
            generation.timeline.admitted = time.monotonic()
            async for chunk in chunks:
                yield chunk

    @asynccontextmanager
    async def _permit(self) -> AsyncGenerator[None, None]:
        if self._permits.locked():
            await self._wait()
        else:
            await self._permits.acquire()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._permits.release()

    async def _wait(self) -> None:
        if self.queued >= self._max_queued:
            raise Overloaded(retry_after=RETRY_AFTER)
        self.queued += 1
        try:
            async with asyncio.timeout(self._queue_timeout):
                await self._permits.acquire()
        except TimeoutError:
            raise Overloaded(retry_after=RETRY_AFTER) from None
        finally:
            self.queued -= 1
