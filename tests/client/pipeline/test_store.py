from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import pytest

from client.pipeline.store import Store


@pytest.fixture
async def database(postgres: str, ring3: None) -> AsyncGenerator[str, None]:
    """A PostgreSQL that nothing is in."""
    name = f"new_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres)
    await connection.execute(f"CREATE DATABASE {name}")
    yield postgres.replace("/postgres?", f"/{name}?")
    await connection.execute(f"DROP DATABASE {name}")
    await connection.close()


async def opened_together(place: str | Path) -> None:
    async def opened() -> str:
        async with Store(place) as store:
            return await store.idempotency_key("k")

    assert len(set(await asyncio.gather(*(opened() for _ in range(6))))) == 1


async def test_workers_that_are_started_together_make_a_new_file_once(tmp_path: Path) -> None:
    await opened_together(tmp_path / "new.db")


async def test_workers_that_are_started_together_make_the_tables_once(database: str) -> None:
    await opened_together(database)
