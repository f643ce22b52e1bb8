"""One run at a time: two would ask about the same charts, and both would be paid for."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from client.errors import LedgerBusy, LedgerError

_REPORTS = 0x686F6D65  # "home": one number in a database, shared with nothing else of ours


@asynccontextmanager
async def alone(engine: AsyncEngine) -> AsyncIterator[None]:
    """Holds the database for this run; readers are not kept out. A process that dies gives it free.

    SQLite: an empty file `DATABASE.lock` beside it, locked as SQLite locks. PostgreSQL: an advisory lock that lasts as
    long as its connection; a pooler that gives connections away after each transaction keeps none.

    Raises:
        LedgerBusy: another run holds it.
        LedgerError: it cannot be locked.
    """
    if engine.dialect.name == "postgresql":
        async with _advisory(engine):
            yield
    elif engine.dialect.name == "sqlite" and engine.url.database not in (None, "", ":memory:"):
        path = Path(str(engine.url.database))
        with closing(_locked(path)):
            yield
    else:
        yield


def _busy(name: str) -> LedgerBusy:
    return LedgerBusy(f"another run is writing {name}: let it finish, or choose another --database")


def _locked(path: Path) -> sqlite3.Connection:
    lock = path.with_name(path.name + ".lock")
    try:
        held = sqlite3.connect(lock, isolation_level=None, timeout=0.5)
    except sqlite3.Error as error:
        raise LedgerError(f"{lock} cannot be made: {error}") from error
    try:
        held.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        held.close()
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise _busy(str(path)) from error
        raise LedgerError(f"{lock} cannot be locked: {error}") from error
    return held


@asynccontextmanager
async def _advisory(engine: AsyncEngine) -> AsyncIterator[None]:
    connection = engine.connect()
    try:
        await connection.start()
        taken = await connection.scalar(text("SELECT pg_try_advisory_lock(:number)"), {"number": _REPORTS})
        await connection.commit()  # the lock is the connection's; a transaction open for hours would hinder vacuuming
    except (SQLAlchemyError, OSError) as error:
        raise LedgerError(f"the database cannot be locked: {getattr(error, 'orig', None) or error}") from error
    try:
        if not taken:
            raise _busy(engine.url.render_as_string(hide_password=True))
        yield
    finally:
        with suppress(SQLAlchemyError, OSError):  # it was lost on the way, and the lock with it
            await connection.invalidate()  # closed, not pooled: the lock goes with it
            await connection.close()
