from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_THRESHOLDS = 50_000, 20, 20


@contextmanager
def seldom_collected() -> Iterator[None]:
    """For programs that hold many requests: Python's collector of cycles leaves the modules alone and runs rarely.

    What belongs to a request lives as long as that is in flight, and its count frees it. With 256 of them the collector
    went through all of it again and again, and through every module: half of a batch's CPU, and nothing found.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
