from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path


class Identity:
    """The name under which a process takes leases.

    The first process on a data folder takes the folder's own name, kept in `file`, and holds it by a lock that the
    kernel ends with the process: whoever gets the lock next knows that all leases of that name are those of a dead one.
    """

    def __init__(self, folder: Path, file: str = "worker.id") -> None:
        self._file = os.open(folder / file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.inherits = False
            self.name = str(uuid.uuid4())
        else:
            self.inherits = True
            self.name = self._read() or self._write(str(uuid.uuid4()))

    def _read(self) -> str:
        """Empty if a process was killed between making the file and writing it."""
        name = os.pread(self._file, 64, 0).decode("ascii", "replace")
        return name if len(name) == 36 else ""

    def _write(self, name: str) -> str:
        os.pwrite(self._file, name.encode(), 0)
        return name

    def close(self) -> None:
        os.close(self._file)
