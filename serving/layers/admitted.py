from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from serving.engine import work
from serving.engine.base import Engine
from serving.errors import Overloaded
from serving.generation import Chunk, Generation
from serving.layers.gate import RETRY_AFTER, Gate, Ticket
from serving.layers.layer import Layer

UNBOUNDED = 2**62


class Admitted(Layer):
    """Lets a bounded number of generations and of pixels through at a time, has some wait, refuses the rest at once.

    The permit lives as long as the stream: whatever ends it, an end, an error or a client that left, gives it back.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_in_flight: int,
        max_queued: int,
        queue_timeout: float,
        max_pixels: int = UNBOUNDED,
    ) -> None:
        """`queue_timeout` in seconds; a generation that waited for so long is refused as if the queue were full."""
        super().__init__(engine)
        self.gate = Gate(max_in_flight, max_pixels, max_queued)
        self._queue_timeout = queue_timeout

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        generation.timeline.queued = time.monotonic()
        ticket = self.gate.enter(work.pixels(generation), generation.priority, generation.caller.key_id)
        try:
            if ticket.turn is not None:
                await self._turn(ticket)
            generation.timeline.admitted = time.monotonic()
            async with aclosing(self._engine.generate(generation)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self.gate.leave(ticket)

    async def _turn(self, ticket: Ticket) -> None:
        assert ticket.turn is not None
        try:
            async with asyncio.timeout(self._queue_timeout):
                await ticket.turn
        except TimeoutError:
            raise Overloaded(retry_after=RETRY_AFTER) from None

    @property
    def queued(self) -> int:
        return self.gate.queued

    @property
    def in_flight(self) -> int:
        return self.gate.in_flight
