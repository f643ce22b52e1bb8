from __future__ import annotations

import asyncio
import importlib
import sqlite3
import time
from pathlib import Path
from threading import Thread
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import aiosqlite
from sqlalchemy import Connection, Engine, MetaData, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

metadata = MetaData()
"""Every table of the server registers here."""

TABLES = (
    "serving.access.keys",
    "serving.access.signer",
    "serving.compatible.batch.record",
    "serving.jobs.tables",
    "serving.storage.claims",
    "serving.storage.files",
    "serving.storage.journal",
    "serving.storage.records.tables",
    "serving.storage.uploads",
    "serving.webhooks.secrets",
)
"""The modules that do. All are created together, whichever command comes first."""

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
CONNECT_WITHIN, ANSWER_WITHIN = 5.0, 30.0
"""Seconds that PostgreSQL is waited for."""
BUSY_MS = 5000
"""That another writer of a SQLite file is waited for."""
CLOSE_WITHIN = 10.0
"""Seconds that what still runs on a SQLite file is waited for; a lock is waited for at most half as long."""
UPGRADE_LOCK = 0x686F6D65
"""Of PostgreSQL's advisory locks the one that servers which start together queue for; any number that is ours."""
UPGRADE_WITHIN_MS = 120_000
_threads: WeakKeyDictionary[Engine, WeakSet[Thread]] = WeakKeyDictionary()
"""Of connections to SQLite, each of which has one."""


class _Durable(sqlite3.Connection):
    """Write-ahead log: the command line may write keys while the server reads them. It is on the disk before a commit
    returns, so that what was acknowledged outlives a loss of power too; some builds of SQLite default to less."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.execute(f"PRAGMA busy_timeout={BUSY_MS}").close()
        self._write_ahead()
        self.execute("PRAGMA synchronous=FULL").close()

    def _write_ahead(self) -> None:
        """SQLite refuses this statement at once where another process writes, whatever the busy time-out."""
        until = time.monotonic() + BUSY_MS / 1000
        while True:
            try:
                self.execute("PRAGMA journal_mode=WAL").close()
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(0.02)


def at(folder: Path, url: str | None = None) -> AsyncEngine:
    """The server's database at `url`, or a SQLite file in `folder`; nothing is opened before it is first used.

    What is written to it appears in no error message. Raises `ValueError` for a URL of no database that is known.
    """
    address = make_url(f"sqlite:///{folder / 'homescope.db'}") if url is None else parsed(url)
    address = address.set(drivername=DRIVERS[address.get_backend_name()])
    if address.get_backend_name() == "postgresql":
        waits = {"timeout": CONNECT_WITHIN, "command_timeout": ANSWER_WITHIN}
        return create_async_engine(address, hide_parameters=True, pool_pre_ping=True, connect_args=waits)
    return _sqlite(address)


def _sqlite(address: URL) -> AsyncEngine:
    threads: WeakSet[Thread] = WeakSet()

    def connect(*args: Any, **options: Any) -> aiosqlite.Connection:
        connection = aiosqlite.connect(*args, **options)
        connection._thread.daemon = True
        threads.add(connection._thread)
        return connection

    engine = create_async_engine(
        address, hide_parameters=True, connect_args={"async_creator_fn": connect, "factory": _Durable}
    )
    _threads[engine.sync_engine] = threads
    return engine


async def close(engine: AsyncEngine) -> None:
    """Closes all connections, and waits for what their threads still do.

    Whoever was cancelled while he connected or asked has left a thread at work, which nobody waits for; one that ends
    after the event loop has no one to tell, and fails.
    """
    await engine.dispose()
    await asyncio.to_thread(_join, list(_threads.get(engine.sync_engine, ())))


def _join(threads: list[Thread]) -> None:
    until = time.monotonic() + CLOSE_WITHIN
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, until - time.monotonic()))


def parsed(url: str) -> URL:
    """Raises `ValueError`."""
    try:
        address = make_url(url)
    except ArgumentError:
        raise ValueError("it is no URL; write postgresql://user:password@host/name") from None
    if address.get_backend_name() not in DRIVERS:
        raise ValueError("only sqlite:/// and postgresql:// databases are known")
    return address


async def create_tables(engine: AsyncEngine, folder: Path) -> None:
    """Brings the database to this version's tables; servers that start together wait for the first of them.

    Raises `OSError` if the folder cannot be written. Only its owner can read what is in it.
    """
    await asyncio.to_thread(_create_folder, folder)
    if engine.dialect.name == "sqlite" and engine.url.database:
        await asyncio.to_thread(Path(engine.url.database).touch, 0o600)
    for module in TABLES:
        importlib.import_module(module)
    async with engine.connect() as connection:
        await connection.run_sync(_lock)
        await connection.run_sync(_upgrade)
        await connection.commit()


def _create_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def _lock(connection: Connection) -> None:
    """Until the transaction ends, which on both databases covers the tables that are made in it."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA busy_timeout={UPGRADE_WITHIN_MS}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.exec_driver_sql(f"PRAGMA busy_timeout={BUSY_MS}")
    else:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({UPGRADE_LOCK})"))


def _upgrade(connection: Connection) -> None:
    """An empty database gets its tables as they are now; an older one takes the steps between."""
    from serving.storage.migrations import HEAD, steps

    existing = set(inspect(connection).get_table_names())
    if steps.version(connection, existing) == HEAD:
        return
    if not existing:
        metadata.create_all(connection)
        steps.stamp(connection, HEAD)
    else:
        steps.run(connection, existing)
