from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum

FIRST_PAUSE = 0.5
MAX_PAUSE = 30.0
FAILED_ANSWERS = 5
"""Answers in a row that an engine which can be reached fails, until it counts as gone."""


class State(StrEnum):
    """`HALF_OPEN` lets one request through, to see."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Whether requests shall still be sent to a replica, by how those before them ended.

    It opens when the replica cannot be reached, for a pause that doubles with every failure from 0.5 s to 30 s. A probe
    after the pause half-opens it; the one request that then goes through closes it or opens it again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.state = State.CLOSED
        self._clock = clock
        self._era = 0
        """How often it has opened: how a request ended that began in an earlier era says nothing about now."""
        self._gone = 0
        self._failed = 0
        self._until = 0.0
        self._trying = False

    @property
    def lets_through(self) -> bool:
        return self.state is State.CLOSED or (self.state is State.HALF_OPEN and not self._trying)

    def begin(self) -> int:
        """To be told at the start of each request; the result belongs to the call that tells its end."""
        if self.state is State.HALF_OPEN:
            self._trying = True
        return self._era

    def answered(self, era: int) -> None:
        """The replica has begun to answer, or has refused for a reason that is not its own."""
        if era == self._era:
            self.state = State.CLOSED
            self._gone = self._failed = 0
            self._trying = False

    def failed(self, era: int) -> None:
        """The replica answered with a failure of its own."""
        self._failed += era == self._era
        if self.state is State.HALF_OPEN or self._failed >= FAILED_ANSWERS:
            self.gone(era)

    def gone(self, era: int) -> None:
        """The replica could not be reached, or went away during an answer."""
        if era != self._era:
            return
        self._era += 1
        self._until = self._clock() + min(FIRST_PAUSE * 2 ** min(self._gone, 10), MAX_PAUSE)
        self._gone += 1
        self._failed = 0
        self._trying = False
        self.state = State.OPEN

    def left(self, era: int) -> None:
        """The request was given up by whoever asked: nobody knows."""
        if era == self._era:
            self._trying = False

    def probed(self, *, came_back: bool = False) -> None:
        """The replica says that it is ready; `came_back` if it was not, and the pause does not matter."""
        if self.state is State.OPEN and (came_back or self._clock() >= self._until):
            self.state = State.HALF_OPEN
