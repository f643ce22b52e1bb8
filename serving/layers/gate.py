from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from serving.errors import Overloaded
from serving.generation import Priority
from serving.turns import Turns

RETRY_AFTER = 2
"""Seconds. Clients cap the header at 8; a full queue of short answers moves on in less."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A place inside the gate, or one before it as long as `turn` is not done."""

    pixels: int
    priority: Priority
    holder: str = ""
    turn: asyncio.Future[None] | None = None
    inside: bool = False


@dataclass(slots=True)
class Gate:
    """Lets so many in at a time, with so many pixels between them; has some wait, and refuses the rest.

    Whoever is interactive goes before all background; within each, holders, which are API keys, go in turn. One with
    more pixels than are ever let in goes in alone.
    """

    max_in_flight: int
    max_pixels: int
    max_queued: int
    in_flight: int = 0
    pixels: int = 0
    _waiting: dict[Priority, Turns[Ticket]] = field(
        default_factory=lambda: {"interactive": Turns(), "background": Turns()}
    )

    @property
    def queued(self) -> int:
        return sum(len(line) for line in self._waiting.values())

    def waiting(self, priority: Priority) -> int:
        return len(self._waiting[priority])

    def enter(self, pixels: int, priority: Priority, holder: str = "") -> Ticket:
        """A ticket that is inside, or waits for its turn; to be given back with `leave`, whatever becomes of it.

        Raises `Overloaded` when as many wait as may, unless somebody has to make room, whose turn then ends with
        `Overloaded`: background for the interactive, and the holder of the longest line for one of a shorter.
        """
        ticket = Ticket(pixels, priority, holder)
        if not self.queued and self._fits(ticket):
            self._let_in(ticket)
            return ticket
        if self.queued >= self.max_queued:
            self._make_room(ticket)
        ticket.turn = asyncio.get_running_loop().create_future()
        self._waiting[priority].add(holder, ticket)
        self._advance()  # who is interactive may fit where the background that waits does not
        return ticket

    def leave(self, ticket: Ticket) -> None:
        if ticket.inside:
            ticket.inside = False
            self.in_flight -= 1
            self.pixels -= ticket.pixels
        else:
            self._waiting[ticket.priority].remove(ticket.holder, ticket)
        self._advance()

    def _make_room(self, ticket: Ticket) -> None:
        own, background = self._waiting[ticket.priority], self._waiting["background"]
        if ticket.priority == "interactive" and background:
            leaves = background.take_last(background.longest)
        elif own and own.of(own.longest) > own.of(ticket.holder) + 1:
            leaves = own.take_last(own.longest)
        else:
            raise Overloaded(retry_after=RETRY_AFTER)
        if leaves.turn is not None and not leaves.turn.done():
            leaves.turn.set_exception(Overloaded(retry_after=RETRY_AFTER))

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
        self.in_flight += 1
        self.pixels += ticket.pixels
