from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.access.grant import Grant, ImagePolicy, Quota
from serving.access.keyring import ANYBODY, Keyring, OpenDoor
from serving.access.keys import AmbiguousKey, ApiKey, KeyStore
from serving.errors import StorageUnavailable, Unauthorized
from serving.generation import Caller
from serving.storage import database

START = datetime(2026, 1, 1)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def epoch(self) -> float:
        return self.now.replace(tzinfo=UTC).timestamp()

    def pass_(self, **span: float) -> None:
        self.now += timedelta(**span)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def records(tmp_path: Path) -> AsyncGenerator[AsyncEngine, None]:
    engine = database.at(tmp_path)
    await database.create_tables(engine, tmp_path)
    yield engine
    await database.close(engine)


@pytest.fixture
def store(records: AsyncEngine, clock: Clock) -> KeyStore:
    return KeyStore(records, clock=clock)


@pytest.fixture
def keyring(store: KeyStore, clock: Clock) -> Keyring:
    return Keyring(store, fresh_for=1, trusted_for=60, monotonic=clock.epoch, clock=clock.epoch)


async def test_the_caller_carries_what_the_key_is_granted(store: KeyStore, keyring: Keyring) -> None:
    grant = Grant(
        scopes=frozenset({"tasks"}),
        models=("qwen3-vl-30b",),
        quota=Quota(rpm=3, concurrency=2),
        images=ImagePolicy(count=1, formats=("PNG",), video=False, hosts=("a.example",)),
        keep_content=False,
        redact=("cn-id",),
    )
    secret = await store.create("narrow", grant)
    assert (await keyring.caller(f"Bearer {secret}")).grant == grant


async def test_a_key_ends_at_its_time_though_nobody_reads_it_again(
    store: KeyStore, keyring: Keyring, clock: Clock
) -> None:
    secret = await store.create("short", expires_at=START + timedelta(seconds=10))
    clock.pass_(seconds=9.5)
    await keyring.caller(f"Bearer {secret}")
    clock.pass_(seconds=0.6)
    with pytest.raises(Unauthorized):
        await keyring.caller(f"Bearer {secret}")


async def test_a_rotated_key_keeps_its_id_and_its_old_secret_for_the_grace(
    store: KeyStore, keyring: Keyring, clock: Clock
) -> None:
    old = await store.create("reports", Grant(models=("qwen3-vl-30b",)))
    issued = await store.rotate(old[:11], timedelta(hours=1))
    assert issued is not None
    before, after = [await keyring.caller(f"Bearer {secret}") for secret in (old, issued.secret)]
    assert before == after
    assert after.grant.models == ("qwen3-vl-30b",)
    clock.pass_(hours=1)
    assert await keyring.caller(f"Bearer {issued.secret}") == after
    with pytest.raises(Unauthorized):
        await keyring.caller(f"Bearer {old}")


async def test_what_a_running_server_does_not_know_yet_is_seen_within_seconds(
    store: KeyStore, keyring: Keyring, clock: Clock
) -> None:
    secret = await store.create("reports")
    await keyring.caller(f"Bearer {secret}")
    await store.revoke(secret[:11])
    await keyring.caller(f"Bearer {secret}")
    clock.pass_(seconds=1.1)
    with pytest.raises(Unauthorized):
        await keyring.caller(f"Bearer {secret}")


async def test_known_keys_outlive_the_database_for_a_while(
    store: KeyStore, keyring: Keyring, clock: Clock, records: AsyncEngine, tmp_path: Path
) -> None:
    secret = await store.create("reports")
    await keyring.caller(f"Bearer {secret}")
    await database.close(records)
    for path in list(tmp_path.glob("homescope.db*")):  # noqa: ASYNC240
        path.write_bytes(b"not a database any more" * 300)
    clock.pass_(seconds=30)
    assert (await keyring.caller(f"Bearer {secret}")).name == "reports"
    clock.pass_(seconds=31)
    with pytest.raises(StorageUnavailable):
        await keyring.caller(f"Bearer {secret}")


async def test_one_query_serves_all_who_ask_at_once(store: KeyStore, clock: Clock) -> None:
    class Counting(KeyStore):
        asked = 0

        async def all(self) -> list[ApiKey]:
            Counting.asked += 1
            return await store.all()

    secret = await store.create("reports")
    counting = Counting(store._database)
    keyring = Keyring(counting, monotonic=clock.epoch, clock=clock.epoch)
    await asyncio.gather(*(keyring.caller(f"Bearer {secret}") for _ in range(50)))
    assert Counting.asked == 1


async def test_work_of_yesterday_runs_under_what_its_key_may_do_today(store: KeyStore, keyring: Keyring) -> None:
    await store.create("reports", Grant(keep_content=False))
    (key,) = await store.all()
    assert (await keyring.now(Caller(key.id, "reports"))).grant.keep_content is False
    assert (await keyring.now(Caller("gone", "gone"))).grant == Grant()


async def test_two_keys_with_one_prefix_are_told_apart_by_their_ids(store: KeyStore, records: AsyncEngine) -> None:
    first, second = await store.create("a"), await store.create("b")
    async with records.begin() as connection:
        await connection.execute(text("update api_keys set prefix = :prefix"), {"prefix": first[:11]})
    with pytest.raises(AmbiguousKey) as raised:
        await store.revoke(first[:11])
    assert set(raised.value.ids) == {key.id for key in await store.all()}
    assert second


async def test_without_authentication_everybody_may_do_everything() -> None:
    assert await OpenDoor().caller("") == ANYBODY
    assert "admin" in ANYBODY.grant.scopes


async def test_a_revoked_key_takes_its_restrictions_with_it(store: KeyStore, keyring: Keyring, clock: Clock) -> None:
    """What it handed in before is still finished: as it was allowed to be, and kept as little of."""
    grant = Grant(models=("small",), images=ImagePolicy(video=False), keep_content=False)
    secret = await store.create("k", grant)
    caller = await keyring.caller(f"Bearer {secret}")
    await store.revoke(caller.key_id)
    clock.pass_(seconds=2)
    with pytest.raises(Unauthorized):
        await keyring.caller(f"Bearer {secret}")
    assert (await keyring.now(Caller(caller.key_id, "k"))).grant == grant
