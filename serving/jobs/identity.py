from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Another one for each start of each machine."""


class Identity:
    """The name under which a process takes leases: of this process alone, never used again.

    The first process on a data folder holds a lock on `file` that the kernel ends with it, and writes its name there:
    whoever gets the lock next knows that the process of that name is dead, and `former` tells its leases. That holds in
    that file under that kernel only. In a copied folder, a restored one or a cloned machine the same name may be that
    of a server that is well: then there is no `former`, and leases of a dead one lapse by themselves.
    """

    def __init__(self, folder: Path, file: str = "worker.id", boot: Path = BOOT) -> None:
        self.name = str(uuid.uuid4())
        self.former: str | None = None
        self._file = os.open(folder / file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.first = False
        else:
            self.first = True
            place = self._place(boot)
            self.former = self._read(place) if place else None
            self._write(f"{self.name} {place}")

    def _place(self, boot: Path) -> str:
        """Which file this is, and under which kernel its locks are; empty where that cannot be told."""
        try:
            kernel = boot.read_text(encoding="ascii").strip()
        except OSError:
            return ""
        status = os.fstat(self._file)
        return f"{kernel} {status.st_dev} {status.st_ino}"

    def _read(self, place: str) -> str | None:
        """None if a process was killed between making the file and writing it, or wrote it elsewhere."""
        name, _, written = os.pread(self._file, 200, 0).decode("ascii", "replace").partition(" ")
        return name if written == place else None

    def _write(self, line: str) -> None:
        os.pwrite(self._file, line.encode(), 0)
        os.ftruncate(self._file, len(line))

    def close(self) -> None:
        os.close(self._file)
