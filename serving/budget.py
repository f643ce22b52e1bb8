from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from serving.errors import InvalidRequest, Overloaded
from serving.turns import Turns

RETRY_AFTER = 2
SHARE = 4
"""Times of what is left free that one holder may have: alone four fifths of all, with a second one four ninths each. So
there is always something left for whoever comes next (the dynamic threshold of Choudhury and Hahne, 1998)."""


class Budget:
    """Bytes that all requests together may hold. Each holder, an API key, has a share of them, and they wait in turn: a
    swarm of large requests under one key leaves room for the requests of others."""

    def __init__(self, limit: int, *, patience: float) -> None:
        """`patience` in seconds: who has waited for so long is refused."""
        self.limit = limit
        self.free = limit
        self._patience = patience
        self._held: Counter[str] = Counter()
        self._turns: Turns[tuple[int, asyncio.Future[None]]] = Turns()

    @property
    def most(self) -> int:
        """Bytes that one holder can have at all."""
        return self.limit * SHARE // (SHARE + 1)

    @asynccontextmanager
    async def lease(self, holder: str = "") -> AsyncGenerator[Lease, None]:
        lease = Lease(self, holder)
        with lease.ending():
            yield lease

    def claim(self, size: int, holder: str) -> None:
        """Takes so many bytes at once. Raises `Overloaded` where they are not free, or somebody waits for them."""
        if self._turns.of(holder) or size > self.free or not self._may(holder, size):
            raise Overloaded(retry_after=RETRY_AFTER)
        self._grant(holder, size)

    async def take(self, size: int, holder: str = "") -> int:
        """Waits until so many bytes are free; returns how many were taken, which is never more than there are. Raises
        `Overloaded` when they do not become free in time."""
        size = min(size, self.limit)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, granted)
        self._turns.add(holder, entry)
        self._advance()
        if granted.done():
            return size
        try:
            async with asyncio.timeout(self._patience):
                await granted
        except BaseException as error:
            self._withdraw(holder, entry)
            if isinstance(error, TimeoutError):
                raise Overloaded(retry_after=RETRY_AFTER) from None
            raise
        return size

    def give(self, size: int, holder: str = "") -> None:
        self.free += size
        self._held[holder] -= size
        if self._held[holder] <= 0:
            del self._held[holder]
        self._advance()

    def _grant(self, holder: str, size: int) -> None:
        self.free -= size
        self._held[holder] += size

    def _may(self, holder: str, size: int) -> bool:
        """Whether it is within the holder's share. One that holds nothing may have whatever is free."""
        held = self._held[holder]
        return held == 0 or held + size <= SHARE * (self.free - size)

    def _advance(self) -> None:
        while (holder := self._next()) is not None:
            size, granted = self._turns.take(holder)
            if not granted.done():
                self._grant(holder, size)
                granted.set_result(None)

    def _next(self) -> str | None:
        """Whose turn it is, if there is enough for it: those behind wait, too, or something large would wait for ever.
        Those beyond their share are passed over."""
        for holder, (size, _) in self._turns.heads:
            if self._may(holder, size):
                return holder if size <= self.free else None
        return None

    def _withdraw(self, holder: str, entry: tuple[int, asyncio.Future[None]]) -> None:
        if self._turns.remove(holder, entry):
            self._advance()
        elif entry[1].done() and not entry[1].cancelled():
            self.give(entry[0], holder)


class Lease:
    """What one request holds of a budget."""

    def __init__(self, budget: Budget, holder: str) -> None:
        self._budget = budget
        self._holder = holder
        self.held = 0
        self._kept = 0

    @contextmanager
    def ending(self) -> Generator[None, None, None]:
        """Gives everything back at the end of the block."""
        try:
            yield
        finally:
            self.give(self.held)

    async def take(self, size: int) -> int:
        """Waits until so many bytes are free; returns how many were taken, which is never more than there are. Raises
        `Overloaded`, and `InvalidRequest` where they will not be: with what the request keeps they are too many."""
        if self._kept and self._kept + size > self._budget.most:
            self._refuse(self._kept + size)
        taken = await self._budget.take(size, self._holder)
        self.held += taken
        return taken

    def claim(self, size: int) -> None:
        """Takes so many bytes at once, or raises `Overloaded`."""
        self._budget.claim(size, self._holder)
        self.held += size

    def keep(self, size: int) -> None:
        """Notes that so much of what is held is kept until the end of the request."""
        self._kept += size

    def release(self, size: int) -> None:
        """Gives back what was to be kept."""
        self._kept -= size
        self.give(size)

    def give(self, size: int) -> None:
        self.held -= size
        self._budget.give(size, self._holder)

    def _refuse(self, needed: int) -> None:
        raise InvalidRequest(
            f"The images of this request take {needed} bytes of memory or more, at most {self._budget.most} can be "
            "had; send fewer or smaller ones"
        )
