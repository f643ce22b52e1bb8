"""Which engines are to be given nothing new, in a file that every process of the server and the command line share."""

from __future__ import annotations

import fcntl
from pathlib import Path

NAME = "drained"


class Drained:
    """A line for each URL. What is written survives restarts, and is seen by who reads next."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / NAME

    def read(self) -> frozenset[str]:
        """Empty where nothing can be read: an engine too many is better than none."""
        try:
            return frozenset(filter(None, self._file.read_text(encoding="utf-8").splitlines()))
        except OSError:
            return frozenset()

    def add(self, url: str) -> None:
        """Raises `OSError`."""
        self._change(url, add=True)

    def remove(self, url: str) -> None:
        """Raises `OSError`."""
        self._change(url, add=False)

    def _change(self, url: str, *, add: bool) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._file.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            urls = self.read() | {url} if add else self.read() - {url}
            staged = self._file.with_suffix(".new")
            staged.write_text("".join(f"{each}\n" for each in sorted(urls)), encoding="utf-8")
            staged.replace(self._file)
