from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from serving.errors import Overloaded
from serving.generation import Priority

RETRY_AFTER = 2
"""Seconds. Clients cap the header at 8; a full queue of short answers moves on in less."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A place inside the gate, or one before it as long as `turn` is not done."""

    pixels: int
    priority: Priority
    turn: asyncio.Future[None] | None = None
    inside: bool = False


@dataclass(slots=True)
class Gate:
    """Lets so many in at a time, with so many pixels between them; has some wait in order, and refuses the rest.

    Whoever is interactive goes before all background. One with more pixels than are ever let in goes in alone.
    """

    max_in_flight: int
    max_pixels: int
    max_queued: int
    in_flight: int = 0
    pixels: int = 0
    _waiting: dict[Priority, deque[Ticket]] = field(
        default_factory=lambda: {"interactive": deque(), "background": deque()}
    )

    @property
    def queued(self) -> int:
        return sum(len(line) for line in self._waiting.values())

    def waiting(self, priority: Priority) -> int:
        return len(self._waiting[priority])

    def enter(self, pixels: int, priority: Priority) -> Ticket:
        """A ticket that is inside, or waits for its turn; to be given back with `leave`, whatever becomes of it.

        Raises `Overloaded` when as many wait as may. Someone interactive takes the place of the background that came
        last, whose turn ends with `Overloaded`.
        """
        ticket = Ticket(pixels, priority)
        if not self.queued and self._fits(ticket):
            self._let_in(ticket)
            return ticket
        if self.queued >= self.max_queued:
            self._make_room(priority)
        ticket.turn = asyncio.get_running_loop().create_future()
        self._waiting[priority].append(ticket)
        self._advance()  # who is interactive may fit where the background that waits does not
        return ticket

    def leave(self, ticket: Ticket) -> None:
        if ticket.inside:
            ticket.inside = False
            self.in_flight -= 1
            self.pixels -= ticket.pixels
        elif ticket in self._waiting[ticket.priority]:
            self._waiting[ticket.priority].remove(ticket)
        self._advance()

    def _make_room(self, priority: Priority) -> None:
        background = self._waiting["background"]
        if priority == "background" or not background:
            raise Overloaded(retry_after=RETRY_AFTER)
        turn = background.pop().turn
        if turn is not None and not turn.done():
            turn.set_exception(Overloaded(retry_after=RETRY_AFTER))

    def _advance(self) -> None:
        while line := self._waiting["interactive"] or self._waiting["background"]:
            if not self._fits(line[0]):
                return
            ticket = line.popleft()
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
