from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from client.errors import HomescopeError, ServerError, Throttled
from client.limits import Limits

CEILING = 256
"""Requests in flight that the adaptive pace never exceeds."""

_LONGEST_REST = 120.0
_CUT, _EASED = 0.7, 0.9
_LEARNING, _FORGETTING = 0.1, 1.0005
_DRIFTED = 2.0
_NOTICEABLE = 0.05

Sleep = Callable[[float], Awaitable[object]]


class Turn:
    """One request in its place. `tokens` is what its answer used, where the caller knows."""

    __slots__ = ("tokens",)

    def __init__(self) -> None:
        self.tokens: int | None = None


class Pace:
    """How many requests are in flight at once, and when the next one may go.

    A fixed number, or adaptive between 1 and `ceiling` by additive increase and multiplicative decrease: it doubles
    with every full round of answers until the first sign of too much, then it is one more per round, and 30 % fewer
    when the server says 429 or 5xx. As in TCP, one round of refusals is one signal: requests that were already
    in flight at the last cut do not cut again.

    Answers that only become slower are a sign, too: when each place costs twice the time that it did at best, 10 % of
    them go, and where twice the places brought no more answers per second there will be no further ones.

    `Retry-After` rests all places, not only the one that was told. `limits`, where given, are kept on top.
    """

    def __init__(self, limit: int, *, ceiling: int | None = None, limits: Limits | None = None) -> None:
        self.ceiling = ceiling or limit
        self.limits = limits
        self._adaptive = ceiling is not None
        self._limit = float(limit)
        self._active = 0
        self._cuts = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._rests_until = 0.0
        self._drift = _Drift()

    @classmethod
    def auto(cls, *, start: int = 4, ceiling: int = CEILING) -> Pace:
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
    async def slot(self, sleep: Sleep = asyncio.sleep) -> AsyncIterator[Turn]:
        """Waits for a place, holds it for one request, and learns from how that request ends.

        `sleep` is how it waits for its time once it has the place; what that raises gives the place back.
        """
        await self._place()
        try:
            taken = await self._time(sleep)
            cuts, began, turn = self._cuts, time.monotonic(), Turn()
            try:
                yield turn
            except (Throttled, ServerError) as error:
                self._cut(cuts, error)
                raise
            self._learn(time.monotonic() - began, cuts)
            if self.limits is not None and turn.tokens is not None:
                self.limits.settle(turn.tokens, taken)
        finally:
            self._active -= 1
            self._wake()

    async def _place(self) -> None:
        if self._active < self.limit and not self._waiting:
            self._active += 1
            return
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            await mine
        except BaseException:
            if mine.done() and not mine.cancelled():
                self._active -= 1
            elif mine in self._waiting:
                self._waiting.remove(mine)
            self._wake()
            raise

    def _wake(self) -> None:
        """Gives free places to those who wait, in the order in which they came."""
        while self._waiting and self._active < self.limit:
            next_one = self._waiting.popleft()
            if not next_one.done():
                self._active += 1
                next_one.set_result(None)

    async def _time(self, sleep: Sleep) -> float:
        """Waits until the request may go; returns the tokens that were taken for it."""
        taken = 0.0
        if self.limits is not None:
            taken = self.limits.expected
            if wait := self.limits.reserve():
                await sleep(wait)
        while (rest := self._rests_until - time.monotonic()) > 0:
            await sleep(rest)
        return taken

    def _learn(self, seconds: float, cuts_at_start: int) -> None:
        if not self._adaptive:
            return
        verdict = self._drift.seen(seconds, self._active, self._limit)
        if verdict == "slower" and cuts_at_start == self._cuts:
            self._cuts += 1
            self._limit = max(1.0, self._limit * _EASED)
        elif verdict == "grow":
            self._limit = min(float(self.ceiling), self._limit + (1 / self._limit if self._cuts else 1.0))

    def _cut(self, cuts_at_start: int, error: HomescopeError) -> None:
        if error.retry_after is not None:
            rest = min(error.retry_after, _LONGEST_REST)
            self._rests_until = max(self._rests_until, time.monotonic() + rest)
        if self._adaptive and cuts_at_start == self._cuts:
            self._cuts += 1
            self._limit = max(1.0, self._limit * _CUT)


class _Drift:
    """Whether more places still bring more answers: seconds per answer and place, which is one over the throughput."""

    def __init__(self) -> None:
        self._cost: float | None = None
        self._best, self._best_limit = float("inf"), 0.0

    def seen(self, seconds: float, active: int, limit: float) -> str:
        """`grow`, `hold` or `slower`, after an answer that took `seconds` with so many in flight."""
        if seconds < _NOTICEABLE:
            return "grow"  # what a computer's own jitter amounts to tells nothing
        cost = seconds / max(1, active)
        self._cost = cost if self._cost is None else self._cost + _LEARNING * (cost - self._cost)
        if self._cost < self._best * _EASED:
            self._best, self._best_limit = self._cost, limit
        self._best *= _FORGETTING
        if self._cost > self._best * _DRIFTED:
            return "slower"
        return "hold" if limit >= self._best_limit * _DRIFTED else "grow"
