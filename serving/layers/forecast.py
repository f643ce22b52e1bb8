"""When places come free, by how long the last ones were held.

To refuse at once, by a cheap estimate, whoever would wait for too long is what Bouncer does (Xu and Colmenares, SIGMOD
2024). Its estimate is made of lengths of queues and mean times; this one also takes since when each place is held,
which matters where places are few and come free together: of eight that are held for two seconds each, the next one is
0 to 2 s away, and not always a quarter of a second. CoDel (RFC 8289; Wangle has it, and serves the newest first) drops
what has waited for too long already, so that the refused are the ones who wait. Envoy's and Netflix's adaptive limits
look for how many may be inside, which is a setting here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from statistics import fmean

KEPT = 64
FEW = 5
"""Fewer holds than this tell nothing: the first to end after a start are the shortest."""
LOOKED_AT = 64
"""Of the places that are held, evenly chosen: a forecast takes 50 us of CPU, however many there are."""
_GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, without their whole part, are spread evenly however many there are."""


class Holds:
    """How long the last places were held, in seconds. Whatever ended it: a place that a failure frees is as free."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._ordered: list[float] = []

    @property
    def known(self) -> bool:
        return len(self._recent) >= FEW

    def add(self, seconds: float) -> None:
        if len(self._recent) == KEPT:
            del self._ordered[bisect_left(self._ordered, self._recent.popleft())]
        self._recent.append(seconds)
        insort(self._ordered, seconds)

    def until_free(self, held: Sequence[float], times: int) -> float:
        """In how many seconds places that are held for `held` seconds, at least one, have come free so many times,
        at least once, if each is taken again as soon as it is.

        Not all are taken to be held for the mean or the median, or none of many would come free soon: each is taken at
        another point of what is possible for it, evenly spread, and one alone at the median.
        """
        looked_at = held[:: -(-len(held) // LOOKED_AT)]
        ends = sorted(self._left(each, (0.5 + at * _GOLDEN) % 1.0) for at, each in enumerate(looked_at))
        mean = fmean(self._ordered)
        rounds, at = divmod(times - 1, len(held))
        # One that hangs is not waited for: by then the place that came free first is free again.
        return min(ends[at * len(ends) // len(held)], ends[0] + mean) + rounds * mean

    def _left(self, held: float, share: float) -> float:
        """As with those that were held for longer, of which `share` were over sooner.

        Of one held for longer than all of them only that is known. It takes as much longer again: one that is late by
        milliseconds is about to end, and one that hangs does not look so for ever.
        """
        at = bisect_right(self._ordered, held)
        longer = len(self._ordered) - at
        if not longer:
            return held - self._ordered[-1]
        return self._ordered[at + int(share * longer)] - held
