"""Time that passes at once: for what takes minutes, and has to be exact."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Skipping(selectors.SelectSelector):
    """Does not wait: what would have been waited is past."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and for no time to come")
        self.now += max(0.0, timeout)
        return super().select(0)


class _Instant(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


def played(main: Coroutine[Any, Any, Result]) -> Result:
    """The result of `main` in a loop in which nothing but sleeps takes time; `loop.time` is its clock.

    Raises RuntimeError when all wait for something other than time.
    """
    with asyncio.Runner(loop_factory=_Instant) as runner:
        return runner.run(main)
