from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, TypeAlias

from serving.errors import Overloaded
from serving.generation import Priority
from serving.layers.forecast import Holds
from serving.turns import Turns

RETRY_AFTER = 2
"""Seconds, as long as nothing is known. Clients cap the header at 8; a full queue of short answers moves on in less."""
LONGEST_RETRY_AFTER = 60
"""Seconds: by then more has changed than can be foretold."""
BACKGROUND_PATIENCE = 60.0
"""Seconds that background waits at least: behind all the interactive, with their patience it would never get in."""

MARGIN = 0.9
"""Of the patience; the rest is for what the forecast gets wrong. With eight places, holds of 2 s give or take 30 ms
and a patience of 0.25 s, 0.1 % of the refused have waited in place of 0.9 %; 0.3 % more are refused at 1.2 times the
capacity."""

Reason: TypeAlias = Literal["full", "would_wait", "waited"]
REASONS: tuple[Reason, ...] = ("full", "would_wait", "waited")


@dataclass(eq=False, slots=True)
class Ticket:
    """A place inside the gate since a time, or one before it as long as `turn` is not done."""

    pixels: int
    priority: Priority
    holder: str = ""
    turn: asyncio.Future[None] | None = None
    inside: bool = False
    since: float = 0.0


@dataclass(slots=True)
class Gate:
    """Lets so many in at a time, with so many pixels between them; has some wait, and refuses the rest.

    Whoever is interactive goes before all background; within each, holders, which are API keys, go in turn. One with
    more pixels than are ever let in goes in alone. Whoever is interactive and is expected to wait for as long as
    `patience`, in seconds, is refused at once: to wait first helps nobody. Background waits, that is its nature.
    """

    max_in_flight: int
    max_pixels: int
    max_queued: int
    patience: float = math.inf
    clock: Callable[[], float] = time.monotonic
    pixels: int = 0
    holds: Holds = field(default_factory=Holds)
    refused: Counter[tuple[Reason, Priority]] = field(default_factory=Counter)
    """How many, and why: as many wait as may, they would have waited for too long, they have."""
    _inside: dict[Ticket, None] = field(default_factory=dict)
    """In the order in which they came in."""
    _waiting: dict[Priority, Turns[Ticket]] = field(
        default_factory=lambda: {"interactive": Turns(), "background": Turns()}
    )

    @property
    def in_flight(self) -> int:
        return len(self._inside)

    @property
    def queued(self) -> int:
        return sum(len(line) for line in self._waiting.values())

    @property
    def longest_wait(self) -> float | None:
        """What `expected_wait` says to whoever is interactive and comes after all of them."""
        return self._wait(list(self._waiting["interactive"]), 0)

    def waiting(self, priority: Priority) -> int:
        return len(self._waiting[priority])

    def patience_of(self, priority: Priority) -> float:
        return self.patience if priority == "interactive" else max(self.patience, BACKGROUND_PATIENCE)

    def expected_wait(self, pixels: int, priority: Priority, holder: str = "") -> float | None:
        """In how many seconds one who came now would get in, if nobody came later; None as long as too little is
        known. Others that come may still go before it: new holders, and the interactive before background."""
        line = self._waiting[priority]
        before = list(islice(line, line.before(holder)))
        if priority == "background":
            before += self._waiting["interactive"]
        return self._wait(before, pixels)

    def enter(self, pixels: int, priority: Priority, holder: str = "") -> Ticket:
        """A ticket that is inside, or waits for its turn; to be given back with `leave`, whatever becomes of it.

        Raises `Overloaded` when it would wait for too long, and when as many wait as may, unless somebody has to make
        room, whose turn then ends with `Overloaded`: background for the interactive, and the holder of the longest
        line for one of a shorter.
        """
        ticket = Ticket(pixels, priority, holder)
        if not self.queued and self._fits(ticket):
            self._let_in(ticket)
            return ticket
        if priority == "interactive" and self._hopeless(pixels, holder):
            raise self.refusal(ticket, "would_wait")
        if self.queued >= self.max_queued:
            self._make_room(ticket)
        ticket.turn = asyncio.get_running_loop().create_future()
        self._waiting[priority].add(holder, ticket)
        self._advance()  # who is interactive may fit where the background that waits does not
        return ticket

    def leave(self, ticket: Ticket) -> None:
        if ticket.inside:
            ticket.inside = False
            del self._inside[ticket]
            self.pixels -= ticket.pixels
            self.holds.add(self.clock() - ticket.since)
        else:
            self._waiting[ticket.priority].remove(ticket.holder, ticket)
        self._advance()

    def refusal(self, ticket: Ticket, reason: Reason) -> Overloaded:
        """Counts it. Whoever asks again once all have had their turn who are before it now comes neither in vain nor
        with everybody else."""
        self.refused[reason, ticket.priority] += 1
        wait = self.expected_wait(ticket.pixels, ticket.priority, ticket.holder)
        seconds = RETRY_AFTER if wait is None else math.ceil(min(wait, LONGEST_RETRY_AFTER))
        return Overloaded(retry_after=max(1, seconds))

    def _hopeless(self, pixels: int, holder: str) -> bool:
        wait = self.expected_wait(pixels, "interactive", holder)
        return wait is not None and wait > MARGIN * self.patience

    def _wait(self, before: list[Ticket], pixels: int) -> float | None:
        if not self.holds.known:
            return None
        times = self._times(before, pixels)
        now = self.clock()
        return self.holds.until_free([now - each.since for each in self._inside], times) if times > 0 else 0.0

    def _times(self, before: list[Ticket], pixels: int) -> int:
        """How many times a place comes free until all before and one more are in, each with the mean pixels of those
        inside, or else of those before."""
        if not self._inside:
            return 0
        places = self.in_flight + len(before) + 1 - self.max_in_flight
        asked = min(pixels, self.max_pixels) + sum(min(each.pixels, self.max_pixels) for each in before)
        over = self.pixels + asked - self.max_pixels
        if over <= 0:
            return places
        if over <= self.pixels:
            return max(places, math.ceil(over * self.in_flight / self.pixels))
        return max(places, self.in_flight + math.ceil((over - self.pixels) * (len(before) + 1) / asked))

    def _make_room(self, ticket: Ticket) -> None:
        own, background = self._waiting[ticket.priority], self._waiting["background"]
        if ticket.priority == "interactive" and background:
            leaves = background.take_last(background.longest)
        elif own and own.of(own.longest) > own.of(ticket.holder) + 1:
            leaves = own.take_last(own.longest)
        else:
            raise self.refusal(ticket, "full")
        if leaves.turn is not None and not leaves.turn.done():
            leaves.turn.set_exception(self.refusal(leaves, "full"))

    def _advance(self) -> None:
        while line := self._waiting["interactive"] or self._waiting["background"]:
            holder, first = line.first
            if not self._fits(first):
                return
            ticket = line.take(holder)
            self._let_in(ticket)
            if ticket.turn is not None and not ticket.turn.done():
                ticket.turn.set_result(None)

    def _fits(self, ticket: Ticket) -> bool:
        if self.in_flight >= self.max_in_flight:
            return False
        return self.in_flight == 0 or self.pixels + ticket.pixels <= self.max_pixels

    def _let_in(self, ticket: Ticket) -> None:
        ticket.inside = True
        ticket.since = self.clock()
        self._inside[ticket] = None
        self.pixels += ticket.pixels
