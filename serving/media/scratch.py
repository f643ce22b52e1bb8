from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from serving.budget import Budget, Lease
from serving.errors import Overloaded

RETRY_AFTER = 5
NO_ROOM = "[other videos take the disk space that there is for them]"
LOCK = "lock"
Room: TypeAlias = Callable[[int], None]
"""Takes room for so many bytes more. Raises `Overloaded`."""


def boundless(_: int) -> None:
    """Room without end."""


class Scratch:
    """Disk space for videos while they are worked on, of which all requests together have so many bytes, and each API
    key a share.

    Each process has a folder of its own in there, and holds a lock that the kernel ends with it: so the next one to
    start clears away what a killed one has left.
    """

    def __init__(self, folder: Path | None, limit: int) -> None:
        """`folder` is shared by the processes of a server; None is one of the system's temporary ones."""
        self._shared = folder
        self._own: Path | None = None
        self._lock = -1
        self.budget = Budget(limit, patience=0)

    async def start(self) -> None:
        """Raises `OSError` if the folder cannot be written."""
        await asyncio.to_thread(self._start)

    async def aclose(self) -> None:
        if self._own is not None:
            await asyncio.to_thread(shutil.rmtree, self._own, True)
            self._own = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @asynccontextmanager
    async def file(self, holder: str) -> AsyncGenerator[tuple[Path, Room], None]:
        """A file for as long as it is worked on, and where to take room for its bytes before they are written."""
        if self._own is None:
            await self.start()
        assert self._own is not None
        path = self._own / uuid.uuid4().hex
        async with self.budget.lease(holder) as lease:
            try:
                yield path, _room(lease)
            finally:
                with suppress(OSError):
                    path.unlink()

    def _start(self) -> None:
        if self._shared is None:
            self._own = Path(tempfile.mkdtemp(prefix="homescope-"))
            return
        self._shared.mkdir(parents=True, exist_ok=True, mode=0o700)
        for each in self._shared.iterdir():
            _clear_if_left(each)
        own = self._shared / uuid.uuid4().hex
        own.mkdir(mode=0o700)
        self._lock = os.open(own / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._own = own


def _clear_if_left(folder: Path) -> None:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # begun a moment ago, or half cleared away by another
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


def _room(lease: Lease) -> Room:
    def take(size: int) -> None:
        try:
            lease.claim(size)
        except Overloaded:
            raise Overloaded(f"{Overloaded.message} {NO_ROOM}", retry_after=RETRY_AFTER) from None

    return take
