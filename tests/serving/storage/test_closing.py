"""A database is closed while threads still work for those who were cancelled."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.storage import database


def working() -> set[threading.Thread]:
    return set(threading.enumerate())


async def look(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("CREATE TABLE IF NOT EXISTS t (id INTEGER)"))


@pytest.mark.parametrize("steps", range(0, 12, 2))
async def test_no_thread_outlives_a_cancelled_connection(tmp_path: Path, steps: int) -> None:
    before = working()
    engine = database.at(tmp_path)
    asking = [asyncio.create_task(look(engine)) for _ in range(3)]
    for _ in range(steps):
        await asyncio.sleep(0)
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)
    await database.close(engine)
    assert not {thread for thread in working() - before if "connection_worker" in thread.name}


def test_a_loop_ends_after_the_threads_that_report_to_it(tmp_path: Path) -> None:
    """Whoever waits for another process's lock is cancelled twice, as by a time limit and then by the stop. A thread
    that ended after the loop would fail, and the failure fail this test."""
    engine = database.at(tmp_path)
    before = working()

    async def cancelled_twice() -> None:
        await look(engine)
        asking = asyncio.create_task(look(engine))
        await asyncio.sleep(0.2)
        for _ in range(2):
            asking.cancel()
            await asyncio.sleep(0)
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(asking, 0.2)
        await database.close(engine)
        assert not {thread for thread in working() - before if "connection_worker" in thread.name}

    with closing(sqlite3.connect(tmp_path / "homescope.db", check_same_thread=False)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        released = threading.Timer(1.5, other.rollback)
        asyncio.run(look_and_dispose(tmp_path))
        other.execute("BEGIN IMMEDIATE")
        released.start()
        try:
            asyncio.run(cancelled_twice())
        finally:
            released.join()


async def look_and_dispose(folder: Path) -> None:
    engine = database.at(folder)
    await look(engine)
    await database.close(engine)
