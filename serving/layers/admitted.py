from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from serving.engine import work
from serving.engine.base import Engine
from serving.generation import Chunk, Generation
from serving.layers.gate import Gate, Ticket
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`queue_timeout` in seconds: an interactive generation that is expected to wait for longer is refused at once,
        and one that has waited for so long after all is refused then."""
        super().__init__(engine)
        self.gate = Gate(max_in_flight, max_pixels, max_queued, queue_timeout, clock)

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        generation.timeline.queued = time.monotonic()
        ticket = self.gate.enter(work.pixels(generation), generation.priority, generation.caller.key_id)
        try:
            if ticket.turn is not None:
                await self._turn(ticket, ticket.turn)
            generation.timeline.admitted = time.monotonic()
            async with aclosing(self._engine.generate(generation)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self.gate.leave(ticket)

    async def _turn(self, ticket: Ticket, turn: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(self.gate.patience_of(ticket.priority)):
                await turn
        except TimeoutError:
            if not ticket.inside:  # or its turn came in the same moment, and nobody else could use the place
                raise self.gate.refusal(ticket, "waited") from None

    @property
    def queued(self) -> int:
        return self.gate.queued

    @property
    def in_flight(self) -> int:
        return self.gate.in_flight
