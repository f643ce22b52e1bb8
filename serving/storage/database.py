import asyncio
from pathlib import Path

from sqlalchemy import MetaData, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

metadata = MetaData()
"""Every table of the server registers here."""


def at(folder: Path) -> AsyncEngine:
    """The server's SQLite database in `folder`; nothing is opened before it is first used."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'homescope.db'}")
    event.listen(engine.sync_engine, "connect", _prepare)
    return engine


async def create_tables(engine: AsyncEngine, folder: Path) -> None:
    """Raises `OSError` if the folder cannot be written. Only its owner can read what is in it."""
    await asyncio.to_thread(_create_file, folder)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)


def _create_file(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "homescope.db").touch(mode=0o600)


def _prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Write-ahead log: the command line may write keys while the server reads them. It is on the disk before a commit
    returns, so that what was acknowledged outlives a loss of power too; some builds of SQLite default to less."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
