from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from client.errors import DiskFull, LedgerBusy, LedgerError
from client.models import Failed, Job, Record, from_json, state, to_json

_APPLICATION_ID = 0x686F6D65  # "home": tells our files from any other SQLite file
_VERSION = 1
_TABLES = """
CREATE TABLE states (
    id INTEGER PRIMARY KEY,
    job TEXT NOT NULL,
    key TEXT NOT NULL,
    file TEXT NOT NULL,
    state TEXT NOT NULL,
    position INTEGER NOT NULL,
    record TEXT NOT NULL,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE INDEX by_key ON states (key, id);
CREATE INDEX by_file ON states (job, file, id);
"""
_ADDED = (
    "CREATE TABLE IF NOT EXISTS identity (id TEXT NOT NULL)",
    "INSERT INTO identity SELECT lower(hex(randomblob(16))) WHERE NOT EXISTS (SELECT 1 FROM identity)",
    "CREATE TABLE IF NOT EXISTS uploads (name TEXT PRIMARY KEY, address TEXT NOT NULL, until REAL NOT NULL)",
)
"""Beside the states, and not needed to read them: ledgers of before have version 1, too."""
_INSERT = """
INSERT INTO states (job, key, file, state, position, record) SELECT ?1, ?2, ?3, ?4, ?5, ?6
WHERE (SELECT record FROM states WHERE job = ?1 AND file = ?3 ORDER BY id DESC LIMIT 1) IS NOT ?6
"""
_RECORDS = """
SELECT record FROM states
WHERE id IN (SELECT max(id) FROM states WHERE job = :job GROUP BY file) AND (:state IS NULL OR state = :state)
ORDER BY position, id
"""
_RESERVE_BYTES = 4 * 2**20


class Ledger:
    """What has become of every image, and the results file that is written from it.

    `results.jsonl.ledger` is an SQLite file to which states are only ever added; it is the truth. `results.jsonl`
    holds the latest record of every file of the current job: a line is added as soon as its state is committed, and
    the whole file is written anew from the ledger when a run begins (which mends what a crash left) and when it ends
    (which puts the lines in the order of the images). A changed prompt, model, schema or parameter is another job.

    A kill at any moment loses nothing that was committed: SQLite's write-ahead log is in the kernel's hands then.
    A power cut may lose the last records, never the file. Only one process can hold a ledger.

    A few megabytes are set aside while it is open and given up when the disk runs full, so that the answers
    still in flight find room.

    Args:
        out: the results file; the ledger lies beside it.
        job: what is asked now.

    Raises:
        LedgerBusy: another run holds it.
        DiskFull: there is no room even to begin.
        LedgerError: it cannot be read or written, or `out` was not written by a ledger.
    """

    def __init__(self, out: Path, job: Job) -> None:
        self.out, self.path = out, out.with_name(out.name + ".ledger")
        self._reserve = out.with_name(out.name + ".reserve")
        self._job = job.fingerprint
        self.full: DiskFull | None = None
        self._lines: int | None = None
        with _explained(self.path):
            self._refuse_what_is_not_ours()
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=0.5)
        try:
            self._begin()
        except BaseException:
            self._db.close()
            raise

    @classmethod
    @contextmanager
    def reading(cls, out: Path, job: Job) -> Iterator[Ledger | None]:
        """The ledger as it is, for `find` and `records` only: nothing is made or changed. None when there is none.

        Raises:
            LedgerError: as the constructor.
        """
        path = out.with_name(out.name + ".ledger")
        if not path.exists():
            yield None
            return
        ledger = cls.__new__(cls)
        ledger.out, ledger.path, ledger._job, ledger._lines = out, path, job.fingerprint, None
        with _explained(path):
            ledger._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=0.5)
            try:
                ledger._db.execute("PRAGMA query_only = ON")  # mode=ro would leave SQLite's files beside it
                ledger._db.execute("SELECT 1 FROM states LIMIT 1").fetchone()
                yield ledger
            finally:
                ledger._db.close()

    def _refuse_what_is_not_ours(self) -> None:
        if self.out.exists() and not self.out.is_file():
            raise LedgerError(f"{self.out} is not a regular file: choose another --out")
        if self.out.exists() and self.out.stat().st_size and not self.path.exists():
            raise LedgerError(f"{self.out} exists and has no ledger beside it: choose another --out, or move it away")

    def _begin(self) -> None:
        with _explained(self.path):
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("BEGIN EXCLUSIVE")
            self._create_or_check()
            self._db.execute("COMMIT")
            _fill(self._reserve)
            self.export()
            self._lines = os.open(self.out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def _create_or_check(self) -> None:
        application = self._db.execute("PRAGMA application_id").fetchone()[0]
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if application == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        elif application != _APPLICATION_ID:
            raise LedgerError(f"{self.path} is not a ledger of homescope")
        elif version != _VERSION:
            raise LedgerError(f"{self.path} has version {version}, this homescope knows {_VERSION}: update homescope")
        for statement in _ADDED:
            self._db.execute(statement)
        self._id = str(self._db.execute("SELECT id FROM identity").fetchone()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Puts the results file in order and gives the ledger free."""
        if self._lines is not None:
            os.close(self._lines)
            self._lines = None
            with suppress(sqlite3.Error):
                self._db.execute("DELETE FROM uploads")  # nothing is in flight that could be asked again
            with suppress(LedgerError):  # a full disk: the lines are all there, in the order of their answers
                self.export()
        self._reserve.unlink(missing_ok=True)
        self._db.close()

    def find(self, key: str) -> Record | None:
        """The latest record of a key, whichever file it was written for; None when it was never asked."""
        row = self._db.execute("SELECT record FROM states WHERE key = ? ORDER BY id DESC LIMIT 1", (key,)).fetchone()
        return None if row is None else from_json(row[0])

    def idempotency_key(self, key: str, found: Record | None = None) -> str:
        """Under which the question of a key is sent: the same after a crash, another one after a failure.

        `found` is what `find` said of the key.

        A failure may be an answer that did not fit: a server that remembers the question would repeat it. Other
        ledgers have other ones: who begins anew wants new answers.
        """
        query = "SELECT count(*) FROM states WHERE key = ? AND state = 'failed'"
        failures = 0 if found is None else self._db.execute(query, (key,)).fetchone()[0]
        return hashlib.sha256(f"{self._id}:{key}:{failures}".encode()).hexdigest()

    async def address(self, name: str) -> str | None:
        """The address of an upload, as `client.uploads.Kept`."""
        query = "SELECT address FROM uploads WHERE name = ? AND until > ?"
        row = self._db.execute(query, (name, time.time())).fetchone()
        return None if row is None else str(row[0])

    async def keep_address(self, name: str, address: str, seconds: float) -> None:
        """Without room it is not kept: then the image is uploaded again after a crash."""
        with suppress(sqlite3.Error):
            self._db.execute("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?)", (name, address, time.time() + seconds))

    async def forget_address(self, name: str) -> None:
        with suppress(sqlite3.Error):
            self._db.execute("DELETE FROM uploads WHERE name = ?", (name,))

    def append(self, record: Record, position: int = 0) -> bool:
        """Commits a record, then adds its line. What is already the latest word about its file is not repeated.

        Returns:
            Whether it was news.

        Raises:
            DiskFull: even the space set aside is used up. (`full` is set when that space is given up.)
        """
        line = to_json(record)
        try:
            news = self._insert(record, position, line)
        except DiskFull as error:
            self._give_up_reserve(error)
            news = self._insert(record, position, line)
        if news:
            self._add_line(line)
        return news

    def _insert(self, record: Record, position: int, line: str) -> bool:
        values = (self._job, record.key, record.file, state(record), position, line)
        with _explained(self.path):
            return self._db.execute(_INSERT, values).rowcount == 1

    def _add_line(self, line: str) -> None:
        if self._lines is None or self.full is not None:
            return
        data = f"{line}\n".encode()
        try:
            whole = os.write(self._lines, data) == len(data)  # the last bytes of a disk take a part of it
        except OSError as error:
            if error.errno not in _FULL:
                raise LedgerError(f"{self.out} cannot be written: {error.strerror}") from error
            whole = False
        if not whole:
            self._give_up_reserve(DiskFull(_no_room(self.out)))  # the export writes the missing line from the ledger

    def _give_up_reserve(self, reason: DiskFull) -> None:
        self.full = reason
        self._reserve.unlink(missing_ok=True)

    def records(self) -> Iterator[Record]:
        """The latest record of every file of the job, in the order of the images."""
        return map(from_json, self._latest())

    def failures(self) -> Iterator[Failed]:
        """Those of `records` that failed."""
        found = (from_json(line) for line in self._latest("failed"))
        return (record for record in found if isinstance(record, Failed))

    def _latest(self, state: str | None = None) -> Iterator[str]:
        rows = self._db.execute(_RECORDS, {"job": self._job, "state": state})
        return (line for (line,) in rows)

    def export(self) -> None:
        """Writes the results file anew, in one step: a reader sees the old one or the new one.

        Raises:
            DiskFull, LedgerError: the old one is still there.
        """
        new = self.out.with_name(self.out.name + ".new")
        try:
            with _explained(self.out):
                with new.open("w", encoding="utf-8") as file:
                    file.writelines(f"{line}\n" for line in self._latest())
                new.replace(self.out)
        finally:
            new.unlink(missing_ok=True)


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's and the system's errors as ours, in words that say what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF == sqlite3.SQLITE_BUSY:
            raise LedgerBusy(f"another run is writing {path}: let it finish, or choose another --out") from error
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
            raise DiskFull(_no_room(path)) from error
        hint = "; is its folder there, and may you write in it?" if code == sqlite3.SQLITE_CANTOPEN else ""
        raise LedgerError(f"the ledger {path} cannot be used: {error}{hint}") from error
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(_no_room(path)) from error
        raise LedgerError(f"{path} cannot be written: {error.strerror or error}") from error


def _no_room(path: Path) -> str:
    return f"no space left on the disk of {path}: free some and run the same command again"


def _fill(path: Path) -> None:
    with path.open("wb") as file:
        file.write(bytes(_RESERVE_BYTES))
