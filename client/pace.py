from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from client.errors import ServerError, Throttled


class Pace:
    """How many requests are in flight at once.

    A fixed number, or adaptive between 1 and `ceiling`: one more after each full round of answers, 30 % fewer when the
    server says 429 or 5xx. As in TCP, one round of refusals is one signal: requests that were already in flight
    at the last cut do not cut again.
    """

    def __init__(self, limit: int, *, ceiling: int | None = None) -> None:
        self.ceiling = ceiling or limit
        self._adaptive = ceiling is not None
        self._limit = float(limit)
        self._active = 0
        self._cuts = 0
        self._free = asyncio.Condition()

    @classmethod
    def auto(cls, *, start: int = 4, ceiling: int = 64) -> Pace:
        """Adaptive: begins at `start` requests in flight."""
        return cls(start, ceiling=ceiling)

    @property
    def limit(self) -> int:
        """Requests allowed in flight now."""
        return int(self._limit)

    @property
    def active(self) -> int:
        """Requests in flight now."""
        return self._active

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Waits for a place, holds it for one request, and learns from how that request ends."""
        async with self._free:
            await self._free.wait_for(lambda: self._active < self.limit)
            self._active += 1
        cuts = self._cuts
        try:
            yield
            self._grow()
        except (Throttled, ServerError):
            self._cut(cuts)
            raise
        finally:
            self._active -= 1
            async with self._free:
                self._free.notify_all()

    def _grow(self) -> None:
        if self._adaptive:
            self._limit = min(float(self.ceiling), self._limit + 1 / self._limit)

    def _cut(self, cuts_at_start: int) -> None:
        if self._adaptive and cuts_at_start == self._cuts:
            self._cuts += 1
            self._limit = max(1.0, self._limit * 0.7)
