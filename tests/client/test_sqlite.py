"""SQLite waits its busy time-out for everything but the switch to the write-ahead log."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from client.sqlite import write_ahead


@pytest.fixture
def other(tmp_path: Path) -> sqlite3.Connection:
    """Another process that writes a file not yet in that mode."""
    connection = sqlite3.connect(tmp_path / "file", isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def test_a_writer_is_waited_for(tmp_path: Path, other: sqlite3.Connection) -> None:
    ends = threading.Timer(0.1, other.rollback)
    with closing(other), closing(sqlite3.connect(tmp_path / "file")) as connection:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("PRAGMA journal_mode = WAL")
        ends.start()
        write_ahead(connection, within=20)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        ends.join()


def test_a_writer_that_stays_is_told(tmp_path: Path, other: sqlite3.Connection) -> None:
    with (
        closing(other),
        closing(sqlite3.connect(tmp_path / "file")) as connection,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        write_ahead(connection, within=0.05)


def test_what_is_no_lock_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no database" * 100)
    with (
        closing(sqlite3.connect(tmp_path / "file")) as connection,
        pytest.raises(sqlite3.DatabaseError, match="not a database"),
    ):
        write_ahead(connection, within=3600)
