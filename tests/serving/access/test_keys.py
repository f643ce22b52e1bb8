from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.access.keyring import Keyring
from serving.access.keys import KeyStore
from serving.errors import Unauthorized
from serving.storage import database


@pytest.fixture
async def records(tmp_path: Path) -> AsyncGenerator[AsyncEngine, None]:
    engine = database.at(tmp_path)
    await database.create_tables(engine, tmp_path)
    yield engine
    await database.close(engine)


def mode(path: Path) -> int:
    return path.stat().st_mode


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


@pytest.fixture
def store(records: AsyncEngine) -> KeyStore:
    return KeyStore(records)


async def test_a_key_is_known_by_its_name(store: KeyStore) -> None:
    secret = await store.create("reports")
    caller = await Keyring(store).caller(f"Bearer {secret}")
    assert caller.name == "reports"


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "Basic {key}", "{key}", "Bearer {key}x", "Bearer sk-"]
)
async def test_anything_else_is_refused(store: KeyStore, authorization: str) -> None:
    secret = await store.create("reports")
    with pytest.raises(Unauthorized):
        await Keyring(store).caller(authorization.format(key=secret))


async def test_the_key_itself_is_not_kept(store: KeyStore, tmp_path: Path) -> None:
    secret = await store.create("reports")
    kept = contents(tmp_path)
    assert secret[:11].encode() in kept
    assert secret.encode() not in kept
    assert secret[11:].encode() not in kept


async def test_a_revoked_key_is_refused_by_a_running_keyring(store: KeyStore) -> None:
    secret = await store.create("reports")
    keyring = Keyring(store, fresh_for=0)
    await keyring.caller(f"Bearer {secret}")
    (revoked,) = await store.revoke(secret[:11])
    assert revoked.name == "reports"
    with pytest.raises(Unauthorized):
        await keyring.caller(f"Bearer {secret}")
    assert await store.revoke(secret[:11]) == []


async def test_a_new_key_is_known_to_a_running_keyring(store: KeyStore) -> None:
    keyring = Keyring(store, fresh_for=0)
    with pytest.raises(Unauthorized):
        await keyring.caller("Bearer sk-none")
    secret = await store.create("late")
    assert (await keyring.caller(f"Bearer {secret}")).name == "late"


async def test_the_database_is_its_owners_alone(records: AsyncEngine, tmp_path: Path) -> None:
    assert mode(tmp_path / "homescope.db") & 0o077 == 0
