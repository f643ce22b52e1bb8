"""Shapes of a Locust load: users over time. `HOMESCOPE_SHAPE=ramp:1-20:300` has a locustfile follow one.

step:2,4,8:180       so many users, each for its share of 180 seconds
ramp:1-20:300        linearly
spike:4,40:180       4 users, 40 in the middle third
"""

from __future__ import annotations

import os
from typing import Any


class BadShape(ValueError):
    """Raised when HOMESCOPE_SHAPE is none of the above."""


def users(words: str, now: float) -> int | None:
    """How many users there are `now` seconds after the start; None after the end.

    Raises:
        BadShape: the words are none of the above.
    """
    try:
        kind, numbers, seconds = words.split(":")
        counts = [int(each) for each in numbers.replace("-", ",").split(",")]
        share = now / float(seconds)
    except ValueError as error:
        raise BadShape(f"{words!r} is none of step:2,4,8:180, ramp:1-20:300, spike:4,40:180") from error
    if share >= 1:
        return None
    if kind == "step":
        return counts[int(share * len(counts))]
    if kind == "ramp" and len(counts) == 2:
        return round(counts[0] + (counts[1] - counts[0]) * share)
    if kind == "spike" and len(counts) == 2:
        return counts[1 / 3 <= share < 2 / 3]
    raise BadShape(f"{words!r} is none of step:2,4,8:180, ramp:1-20:300, spike:4,40:180")


def chosen() -> Any:
    """The shape that the environment names, as Locust wants it: a class in the locustfile; None without one."""
    words = os.environ.get("HOMESCOPE_SHAPE", "")
    if not words:
        return None
    users(words, 0.0)
    from locust import LoadTestShape  # here, for it replaces the sockets of whatever imports it

    class Chosen(LoadTestShape):
        def tick(self) -> tuple[int, float] | None:
            now = users(words, float(self.get_run_time()))  # type: ignore[no-untyped-call]
            return None if now is None else (now, max(1.0, float(now)))

    return Chosen
