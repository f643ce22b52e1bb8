from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from serving.errors import StorageUnavailable

log = logging.getLogger(__name__)

EVERY_S = 600.0

Sweep: TypeAlias = Callable[[], Awaitable[object]]


class Sweeper:
    """Has what is past its time removed, at the start and then every ten minutes."""

    def __init__(self, *sweeps: Sweep, pause: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """`pause` waits for so many seconds."""
        self._sweeps = sweeps
        self._pause = pause
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._running = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        while True:
            for sweep in self._sweeps:
                try:
                    await sweep()
                except StorageUnavailable:  # told where it happened; the next round finds the same
                    pass
                except Exception:
                    log.exception("sweeping failed")
            await self._pause(EVERY_S)
