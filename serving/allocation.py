from __future__ import annotations

import asyncio
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
KEPT = 32 << 20
"""Bytes at the end of the heap that stay with the process when they are free: some bodies with an image."""
MAPPED = 8 << 20
"""Bytes from which on an allocation is pages of its own, which go back to the system with it."""
QUIET = 3.0
"""Seconds without a request after which freed memory goes back to the system."""

_libc = ctypes.CDLL(None)


def keep_freed() -> bool:
    """Has malloc keep memory for the next request that one request has freed, instead of returning it in between.

    A body of a megabyte is copied and written in memory that was just freed. Each page of it that had been returned is
    a fault, and costs more than what is written there. False where malloc is not glibc's.
    """
    mallopt = getattr(_libc, "mallopt", None)
    return mallopt is not None and bool(mallopt(M_TRIM_THRESHOLD, KEPT)) and bool(mallopt(M_MMAP_THRESHOLD, MAPPED))


class Freed:
    """Gives freed memory back once no request has ended for a while, so that an idle server is as small as a new one.
    Between requests that follow each other it stays: see `keep_freed`."""

    def __init__(self, quiet: float = QUIET) -> None:
        self.trims = 0
        self._quiet = quiet
        self._used_at = 0.0
        self._waiting = False

    def note(self) -> None:
        """A request has ended. To be called in the event loop."""
        loop = asyncio.get_running_loop()
        self._used_at = loop.time()
        if not self._waiting:
            self._waiting = True
            loop.call_later(self._quiet, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if (left := self._used_at + self._quiet - loop.time()) > 0:
            loop.call_later(left, self._look, loop)
            return
        self._waiting = False
        self.trims += 1
        trim = getattr(_libc, "malloc_trim", None)
        if trim is not None:
            trim(0)
