from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from serving.engine import tokens, work
from serving.engine.base import Engine
from serving.engine.breaker import Breaker
from serving.engine.tokens import Tokens
from serving.engine.vllm import RETRY_AFTER
from serving.errors import EngineUnavailable, GenerationFailed, ServingError
from serving.generation import Chunk, Generation

log = logging.getLogger(__name__)

PROBE_INTERVAL = 5.0
PROBE_AGAIN = 1.0
"""Seconds between probes of a replica that is ready, and of one that is not."""
LOST_AFTER = 3
"""Probes in a row that fail until running answers are given up: a machine without power closes no connection."""


class Replica:
    """One engine of a pool: what it has to do, and whether it can be expected to do more."""

    def __init__(self, url: str, engine: Engine, breaker: Breaker | None = None) -> None:
        self.url = url
        self.breaker = breaker or Breaker()
        self.ready = True
        """As the last probe found it; taken for granted before the first."""
        self.draining = False
        self.weight = 0
        """Of everything that it is answering, in the unit of `serving.engine.work.weight`."""
        self.outstanding = 0
        self.served = 0
        """Requests that it was given, ever."""
        self._engine = engine
        self._waits: set[Wait] = set()
        self._look = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._missed = 0

    @property
    def usable(self) -> bool:
        """Whether it may be given a request, whatever the probes find."""
        return not self.draining and self.breaker.lets_through

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        weight = work.weight(generation)
        era = self.breaker.begin()
        self.served += 1
        self._take(weight)
        wait = Wait()
        self._waits.add(wait)
        try:
            async with aclosing(self._engine.generate(generation)) as chunks:
                chunk = await wait.next(chunks)
                self.breaker.answered(era)
                while chunk is not None:
                    yield chunk
                    chunk = await wait.next(chunks)
        except EngineUnavailable:
            self.breaker.gone(era)
            self._look.set()
            raise
        except GenerationFailed:
            self.breaker.failed(era)
            raise
        except ServingError:
            self.breaker.answered(era)
            raise
        finally:
            self._waits.discard(wait)
            self.breaker.left(era)
            self._take(-weight)

    async def tokenize(self, text: str) -> Tokens:
        return await tokens.of(self._engine, text)

    def _take(self, weight: int) -> None:
        self.weight += weight
        self.outstanding += 1 if weight > 0 else -1
        if self.outstanding:
            self._idle.clear()
        else:
            self._idle.set()

    async def start(self) -> None:
        await self._engine.start()

    async def aclose(self) -> None:
        await self._engine.aclose()

    async def drained(self) -> None:
        """Returns when nothing is answered any more."""
        await self._idle.wait()

    async def watch(self) -> None:
        """Probes it for as long as it runs; at once after a request could not reach it."""
        while True:
            await self.probe()
            with suppress(TimeoutError):
                async with asyncio.timeout(PROBE_INTERVAL if self.ready and self.usable else PROBE_AGAIN):
                    await self._look.wait()
            self._look.clear()

    async def probe(self) -> None:
        was, self.ready = self.ready, await self._engine.ready()
        if self.ready:
            self._missed = 0
            self.breaker.probed(came_back=not was)
        else:
            self._missed += 1
            if self._missed >= LOST_AFTER:
                self._lose()
        if was != self.ready:
            log.warning("engine at %s is %s", self.url, "ready again" if self.ready else "not ready")

    def _lose(self) -> None:
        """Ends the waiting for what will not come."""
        for wait in self._waits:
            wait.end()
        self._waits.clear()


class Wait:
    """Waits for the chunks of one answer until somebody ends it. A timeout for each of them would cost as much as
    reading it."""

    def __init__(self) -> None:
        self._ended = False
        self._task: asyncio.Task[Any] | None = None
        """Who waits at this moment."""

    def end(self) -> None:
        self._ended = True
        if self._task is not None:
            self._task.cancel()

    async def next(self, chunks: AsyncGenerator[Chunk, None]) -> Chunk | None:
        """None at the end. Raises `EngineUnavailable` once the wait has been ended."""
        if self._ended:
            raise EngineUnavailable(retry_after=RETRY_AFTER)
        task = self._task = asyncio.current_task()
        assert task is not None
        try:
            return await anext(chunks, None)
        except asyncio.CancelledError:
            if self._ended and task.uncancel() == 0:
                raise EngineUnavailable(retry_after=RETRY_AFTER) from None
            raise
        finally:
            self._task = None
