from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """Lines of several holders, such as API keys, that are served in turn: a long line of one of them keeps nobody else
    waiting for longer than one turn each."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Item]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __iter__(self) -> Iterator[Item]:
        """All who wait, in the order of their turns."""
        lines, number = list(self._lines.values()), 0
        while lines:
            yield from (line[number] for line in lines)
            number += 1
            lines = [line for line in lines if len(line) > number]

    def before(self, holder: str) -> int:
        """How many have their turn before the next one that the holder adds."""
        own, ahead = self.of(holder), 0
        last_round = own + 1
        for other, line in self._lines.items():
            if other == holder:
                last_round = own  # who comes after the holder in a round has one turn less before it
            ahead += min(len(line), last_round)
        return ahead

    def of(self, holder: str) -> int:
        """How many wait in the holder's line."""
        return len(self._lines.get(holder, ()))

    @property
    def heads(self) -> list[tuple[str, Item]]:
        """Holders and the first in their lines, in the order of their turns."""
        return [(holder, line[0]) for holder, line in self._lines.items()]

    @property
    def first(self) -> tuple[str, Item]:
        """Whose turn it is, and the first in that line. There has to be one."""
        holder = next(iter(self._lines))
        return holder, self._lines[holder][0]

    @property
    def longest(self) -> str:
        """The holder of the longest line. There has to be one."""
        return max(self._lines, key=lambda holder: len(self._lines[holder]))

    def add(self, holder: str, item: Item) -> None:
        self._lines.setdefault(holder, deque()).append(item)

    def take(self, holder: str) -> Item:
        """Takes the first of the holder's line, whose next turn comes after everybody else's."""
        line = self._lines.pop(holder)
        item = line.popleft()
        if line:
            self._lines[holder] = line
        return item

    def take_last(self, holder: str) -> Item:
        item = self._lines[holder].pop()
        self._drop_empty(holder)
        return item

    def remove(self, holder: str, item: Item) -> bool:
        """Whether it waited."""
        if item not in self._lines.get(holder, ()):
            return False
        self._lines[holder].remove(item)
        self._drop_empty(holder)
        return True

    def _drop_empty(self, holder: str) -> None:
        if not self._lines[holder]:
            del self._lines[holder]
