from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
KEPT = 16 << 20
"""Bytes at the end of the heap that stay with the process when they are free: some bodies with an image."""
MAPPED = 8 << 20
"""Bytes from which on an allocation is pages of its own, which go back to the system with it."""


def keep_freed() -> bool:
    """Has malloc keep memory for the next request that one request has freed, instead of returning it in between.

    A body of a megabyte is copied and written in memory that was just freed. Each page of it that had been returned is
    a fault, and costs more than what is written there. False where malloc is not glibc's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_TRIM_THRESHOLD, KEPT)) and bool(mallopt(M_MMAP_THRESHOLD, MAPPED))
