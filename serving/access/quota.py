"""What is used of limits: per minute, and at a time. The arithmetic, and the counters of one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

Resource: TypeAlias = Literal["requests", "tokens", "images", "concurrency"]

WINDOW_S = 60
SLICE_S = 2
"""A window moves on by slices: what was used in one is given back when all of it is older than the window. So no minute
ever has more than its limit, and room comes up to two seconds late."""


@dataclass(frozen=True, slots=True)
class Charge:
    """`amount` of a resource that `limit` bounds, for one `holder`: a key, or the whole server."""

    resource: Resource
    holder: str
    limit: int
    amount: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """Charges that `ledger` let in, in its slice number `slice`; `id` names the running request."""

    id: str
    charges: tuple[Charge, ...]
    slice: int
    ledger: Ledger


class Exhausted(Exception):
    """Raised when a charge does not fit. `wait` in seconds until it would, None if never or unknown."""

    def __init__(self, charge: Charge, wait: float | None) -> None:
        self.charge = charge
        self.wait = wait
        super().__init__(charge.resource)


class LedgerAway(Exception):
    """Raised when a shared ledger cannot be reached."""


class Ledger(Protocol):
    """Keeps what has been used. All charges of a request are let in together, or none of them."""

    async def charge(self, request_id: str, charges: Sequence[Charge]) -> Receipt:
        """Raises `Exhausted`, and `LedgerAway`."""
        ...

    def settle(self, receipt: Receipt, tokens: int | None) -> None:
        """The request has ended. `tokens` is what it used in truth, None when it was never worked on: then tokens and
        images are given back. Returns at once, whatever the ledger has to do."""
        ...

    async def aclose(self) -> None: ...


class Window:
    """How much was used in the last minute, by slices."""

    __slots__ = ("_slices", "total")

    def __init__(self) -> None:
        self._slices: dict[int, int] = {}
        self.total = 0

    def advance(self, now_slice: int) -> None:
        for number in [each for each in self._slices if each <= now_slice - WINDOW_S // SLICE_S - 1]:
            self.total -= self._slices.pop(number)

    def add(self, number: int, amount: int) -> None:
        """To a slice that is gone nothing is added: what was used then counts no more."""
        self._slices[number] = self._slices.get(number, 0) + amount
        self.total += amount

    def give_back(self, number: int, amount: int) -> None:
        returned = min(amount, self._slices.get(number, 0))
        if returned:
            self._slices[number] -= returned
            self.total -= returned

    def room_in(self, needed: int, limit: int, now: float) -> float | None:
        """Seconds until `needed` more fit."""
        left = self.total
        for number in sorted(self._slices):
            left -= self._slices[number]
            if left + needed <= limit:
                return (number + 1) * SLICE_S + WINDOW_S - now
        return None


class LocalLedger:
    """The counters of one process. What nobody uses is forgotten after a minute."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, str], Window] = {}
        self._running: dict[str, int] = {}
        self._swept_at = clock()

    async def charge(self, request_id: str, charges: Sequence[Charge]) -> Receipt:
        now = self._clock()
        number = int(now // SLICE_S)
        self._sweep(now, number)
        for charge in charges:
            self._check(charge, now, number)
        for charge in charges:
            if charge.resource == "concurrency":
                self._running[charge.holder] = self._running.get(charge.holder, 0) + charge.amount
            else:
                self._window(charge).add(number, charge.amount)
        return Receipt(request_id, tuple(charges), number, self)

    def settle(self, receipt: Receipt, tokens: int | None) -> None:
        number = int(self._clock() // SLICE_S)
        for charge in receipt.charges:
            if charge.resource == "concurrency":
                self._release(charge)
            elif charge.resource != "requests":
                more = correction(charge, tokens)
                if more > 0:
                    self._window(charge).add(number, more)
                else:
                    self._window(charge).give_back(receipt.slice, -more)

    async def aclose(self) -> None:
        pass

    def _check(self, charge: Charge, now: float, number: int) -> None:
        if charge.resource == "concurrency":
            if self._running.get(charge.holder, 0) + charge.amount > charge.limit:
                raise Exhausted(charge, None)
            return
        window = self._window(charge)
        window.advance(number)
        if charge.amount and window.total + charge.amount > charge.limit:
            raise Exhausted(charge, window.room_in(charge.amount, charge.limit, now))

    def _window(self, charge: Charge) -> Window:
        key = (charge.resource, charge.holder)
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = Window()
        return window

    def _release(self, charge: Charge) -> None:
        left = self._running.get(charge.holder, 0) - charge.amount
        if left > 0:
            self._running[charge.holder] = left
        else:
            self._running.pop(charge.holder, None)

    def _sweep(self, now: float, number: int) -> None:
        if now - self._swept_at < WINDOW_S:
            return
        self._swept_at = now
        for key, window in list(self._windows.items()):
            window.advance(number)
            if not window.total:
                del self._windows[key]


def correction(charge: Charge, tokens: int | None) -> int:
    """How much more than its charge a request used of a resource per minute; less than 0 to give back."""
    if tokens is None:
        return -charge.amount
    return tokens - charge.amount if charge.resource == "tokens" else 0
