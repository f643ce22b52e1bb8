from __future__ import annotations

import sqlite3
import time
from typing import Any, Protocol

_PAUSE = 0.02


class _Executes(Protocol):
    def execute(self, statement: str, /) -> Any: ...


def write_ahead(database: _Executes, within: float) -> None:
    """Switches a file to the write-ahead log, which several processes may want of a new one at the same moment.

    SQLite's own busy time-out does not cover this statement: whoever finds another at work is refused at once.

    Args:
        database: a connection or a cursor.
        within: seconds that others are waited for.

    Raises:
        sqlite3.OperationalError: the file is still locked then, or cannot be written.
    """
    until = time.monotonic() + within
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(_PAUSE)
