from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

READ = 1 << 20


class Spool:
    """Lines in a file that is this process's alone: appended before anybody is told, taken out once they are elsewhere.

    A line is in the kernel's hands when `append` returns: it outlives the process, however that ends. It outlives a
    loss of power only once it has been taken out.
    """

    def __init__(self, path: Path) -> None:
        """Raises `BlockingIOError` if another process has it, and `OSError`."""
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise
        self._end = os.fstat(self._file).st_size
        self._taken = 0

    @classmethod
    def new(cls, folder: Path) -> Spool:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(folder / f"{uuid.uuid4().hex}.jsonl")

    @property
    def waiting(self) -> int:
        """Bytes."""
        return self._end - self._taken

    def append(self, line: bytes) -> None:
        """All of the line or nothing of it. Raises `OSError`, on a full disk for one."""
        data = line + b"\n"
        try:
            written = os.write(self._file, data)
            if written < len(data):
                raise OSError(28, "the disk is full")
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += written

    def peek(self) -> tuple[list[bytes], int]:
        """The oldest lines, about a megabyte of them, and how many bytes they are. What broke off in the middle, when a
        process died while it wrote, is no line."""
        size, data = READ, b""
        while self._taken + len(data) < self._end:
            data = os.pread(self._file, min(size, self.waiting), self._taken)
            cut = data.rfind(b"\n") + 1
            if cut:
                return data[:cut].splitlines(), cut
            if len(data) >= self.waiting:
                return [], len(data)
            size *= 2
        return [], 0

    def take(self, size: int) -> None:
        """Takes out the oldest bytes."""
        self._taken += size
        if self._taken >= self._end:
            os.ftruncate(self._file, 0)
            self._taken = self._end = 0

    def close(self) -> None:
        """Removes the file if nothing waits in it."""
        if not self.waiting:
            self.path.unlink(missing_ok=True)
        os.close(self._file)


def orphans(folder: Path) -> Iterator[Spool]:
    """The files that processes left behind which are no more."""
    for path in sorted(folder.glob("*.jsonl")):
        try:
            yield Spool(path)
        except OSError:  # a living process has it, or it has just been removed
            continue
