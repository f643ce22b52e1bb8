from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from serving.errors import Overloaded

RETRY_AFTER = 2


class Lease:
    """What one request holds of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    async def take(self, size: int) -> int:
        """Waits until so many bytes are free; returns how many were taken, which is never more than there are."""
        taken = await self._budget.take(size)
        self.held += taken
        return taken

    def give(self, size: int) -> None:
        self.held -= size
        self._budget.give(size)


class Budget:
    """Bytes that all requests together may hold; who asks first gets them first."""

    def __init__(self, limit: int, *, patience: float) -> None:
        """`patience` in seconds: who has waited for so long is refused."""
        self._limit = limit
        self._patience = patience
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.free = limit

    @asynccontextmanager
    async def lease(self) -> AsyncGenerator[Lease, None]:
        lease = Lease(self)
        try:
            yield lease
        finally:
            lease.give(lease.held)

    async def take(self, size: int) -> int:
        """Raises `Overloaded` when the bytes do not become free in time."""
        size = min(size, self._limit)
        if not self._waiting and size <= self.free:
            self.free -= size
            return size
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, granted)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(self._patience):
                await granted
        except BaseException as error:
            self._withdraw(entry)
            if isinstance(error, TimeoutError):
                raise Overloaded(retry_after=RETRY_AFTER) from None
            raise
        return size

    def give(self, size: int) -> None:
        self.free += size
        while self._waiting and self._waiting[0][0] <= self.free:
            wanted, granted = self._waiting.popleft()
            if not granted.done():
                self.free -= wanted
                granted.set_result(None)

    def _withdraw(self, entry: tuple[int, asyncio.Future[None]]) -> None:
        if entry in self._waiting:
            self._waiting.remove(entry)
            self.give(0)
        elif entry[1].done() and not entry[1].cancelled():
            self.give(entry[0])
