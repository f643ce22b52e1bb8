from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stoppable(Protocol):
    """Work of many parts that can end between two of them."""

    @property
    def stopping(self) -> bool: ...

    def stop(self) -> None:
        """Begins nothing more; what is in flight goes on."""
        ...


@contextmanager
def interruptible(work: Stoppable, told: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets finish what is in flight and calls `told`, the second cancels this task."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def interrupt() -> None:
        if work.stopping and task is not None:
            task.cancel()
            return
        work.stop()
        told()

    for number in SIGNALS:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
