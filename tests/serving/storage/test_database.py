from __future__ import annotations

import asyncio
import importlib
import sqlite3
import threading
import uuid
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.access.grant import Grant
from serving.access.keyring import Keyring
from serving.access.keys import KeyStore, hashed
from serving.storage import database
from serving.storage.migrations import HEAD, steps
from tests.serving.storage.postgres import fresh_database

FIRST = """CREATE TABLE api_keys (id VARCHAR(36) NOT NULL PRIMARY KEY, name VARCHAR(200) NOT NULL,
prefix VARCHAR(11) NOT NULL, hash {bytes} NOT NULL, created_at {moment} NOT NULL, revoked_at {moment})"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.ring3)])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if request.param == "sqlite":
        return None
    return await fresh_database(request.getfixturevalue("postgres"))


@pytest.fixture
async def engine(url: str | None, tmp_path: Path) -> AsyncGenerator[AsyncEngine, None]:
    made = database.at(tmp_path, url)
    yield made
    await database.close(made)


def differences(connection: Connection) -> list[object]:
    for module in database.TABLES:
        importlib.import_module(module)
    return list(compare_metadata(MigrationContext.configure(connection), database.metadata))


async def test_an_empty_database_gets_every_table(engine: AsyncEngine, tmp_path: Path) -> None:
    await database.create_tables(engine, tmp_path)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar() == HEAD


async def test_a_database_of_the_first_server_keeps_its_keys(engine: AsyncEngine, tmp_path: Path) -> None:
    """If this fails after a table was changed: the migration of the change is missing."""
    types = {"bytes": "BYTEA", "moment": "TIMESTAMP"} if engine.dialect.name == "postgresql" else {}
    async with engine.begin() as connection:
        await connection.execute(text(FIRST.format(**({"bytes": "BLOB", "moment": "DATETIME"} | types))))
        await connection.execute(text("CREATE INDEX ix_api_keys_prefix ON api_keys (prefix)"))
        row = {"id": str(uuid.uuid4()), "hash": hashed("sk-abcdefgh-old")}
        await connection.execute(
            text("INSERT INTO api_keys VALUES (:id, 'old', 'sk-abcdefgh', :hash, '2026-01-01 00:00:00', NULL)"), row
        )
    await database.create_tables(engine, tmp_path)
    caller = await Keyring(KeyStore(engine)).caller("Bearer sk-abcdefgh-old")
    assert (caller.name, caller.grant) == ("old", Grant())
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await database.create_tables(engine, tmp_path)


async def test_servers_that_start_together_do_not_collide(url: str | None, tmp_path: Path) -> None:
    engines = [database.at(tmp_path, url) for _ in range(6)]
    await asyncio.gather(*(database.create_tables(engine, tmp_path) for engine in engines))
    secret = await KeyStore(engines[0]).create("one")
    assert (await Keyring(KeyStore(engines[5])).caller(f"Bearer {secret}")).name == "one"
    for engine in engines:
        await database.close(engine)


async def test_a_server_that_finds_another_at_a_new_file_waits_for_it(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "homescope.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        ends = threading.Timer(0.1, other.rollback)
        ends.start()
        engine = database.at(tmp_path)
        await database.create_tables(engine, tmp_path)
        await database.close(engine)
        ends.join()


def test_the_newest_step_is_the_last_one() -> None:

    assert ScriptDirectory(str(Path(steps.__file__).parent)).get_current_head() == HEAD


@pytest.mark.parametrize("url", ["mysql://host/name", "nonsense", "redis://x"])
def test_another_database_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="postgresql://"):
        database.at(tmp_path, url)


def test_every_module_with_a_table_is_known() -> None:
    root = Path(database.__file__).parents[1]
    found = {
        "serving." + str(path.relative_to(root).with_suffix("")).replace("/", ".")
        for path in root.rglob("*.py")
        if " Table(" in path.read_text(encoding="utf-8")
    }
    assert found == set(database.TABLES)
