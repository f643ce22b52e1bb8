from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.storage import database
from serving.storage.claims import LEASE_S, Claim, Claims, InFlight, Kept, Reused
from tests.serving.storage.postgres import fresh_database

DIGEST, OTHER = bytes(32), bytes([1] * 32)
ANSWER = Kept(200, "application/json", {"x-homescope-cache": "miss"}, b'{"a":1}')


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.ring3)])
async def claims(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncGenerator[Claims, None]:
    url = None if request.param == "sqlite" else await fresh_database(request.getfixturevalue("postgres"))
    engine = database.at(tmp_path, url)
    await database.create_tables(engine, tmp_path)
    yield Claims(engine, lifetime=3600, clock=clock)
    await database.close(engine)


async def taken(claims: Claims, name: str = "n", digest: bytes = DIGEST, owner: str = "me") -> Claim:
    claim = await claims.claim(owner, name, digest)
    assert isinstance(claim, Claim)
    return claim


async def test_an_answer_is_kept_for_its_request_alone(claims: Claims) -> None:
    await claims.keep(await taken(claims), ANSWER)
    assert await claims.claim("me", "n", DIGEST) == ANSWER
    with pytest.raises(Reused):
        await claims.claim("me", "n", OTHER)
    await taken(claims, owner="somebody else", digest=OTHER)


async def test_of_many_at_once_one_gets_the_claim(claims: Claims) -> None:
    found = await asyncio.gather(*(claims.claim("me", "n", DIGEST) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(each, Claim) for each in found) == 1
    assert sum(isinstance(each, InFlight) for each in found) == 7


async def test_a_dead_process_loses_its_claim_and_what_it_made_is_found_by_its_id(claims: Claims, clock: Clock) -> None:
    first = await taken(claims)
    clock.now += LEASE_S - 1
    with pytest.raises(InFlight):
        await taken(claims)
    await claims.renew(first)
    clock.now += LEASE_S - 1
    with pytest.raises(InFlight):
        await taken(claims)
    clock.now += 2
    second = await taken(claims)
    assert (second.id, second.lease == first.lease) == (first.id, False)
    await claims.keep(first, ANSWER)  # too late: it has lost the claim
    with pytest.raises(InFlight):
        await taken(claims)


async def test_a_claim_that_the_clock_has_left_behind_holds_nobody_up(claims: Claims, clock: Clock) -> None:
    """It was made, by a process that has died, before the clock was set back by an hour; one that is renewed holds."""
    await taken(claims, "dead")
    alive = await taken(claims, "alive")
    clock.now -= 3600
    await claims.renew(alive)
    await taken(claims, "dead")
    with pytest.raises(InFlight):
        await taken(claims, "alive")


async def test_what_failed_may_be_asked_again_and_what_was_refused_corrected(claims: Claims) -> None:
    first = await taken(claims)
    await claims.release(first)
    with pytest.raises(Reused):
        await taken(claims, digest=OTHER)
    again = await taken(claims)
    assert again.id == first.id
    await claims.drop(again)
    assert (await taken(claims, digest=OTHER)).id != first.id


async def test_a_name_is_free_again_when_its_time_is_over(claims: Claims, clock: Clock) -> None:
    await claims.keep(await taken(claims), ANSWER)
    await taken(claims, "later")
    assert await claims.sweep() == 0
    clock.now += 3601
    await taken(claims, digest=OTHER)  # not swept yet, and free
    assert await claims.sweep() == 1


async def test_large_answers_of_an_owner_have_a_bound(tmp_path: Path, clock: Clock) -> None:
    engine = database.at(tmp_path)
    await database.create_tables(engine, tmp_path)
    claims = Claims(engine, lifetime=2 * 3600, clock=clock, large_ones=250_000)
    large, small = Kept(200, "a/b", {}, bytes(100_000)), Kept(200, "a/b", {}, bytes(60_000))

    async def kept(name: str, answer: Kept, owner: str = "me") -> bool:
        await claims.keep(await taken(claims, name, owner=owner), answer)
        return await claims.claim(owner, name, DIGEST) == answer

    assert [await kept(f"large-{number}", large) for number in range(3)] == [True, True, False]
    assert await kept("small", small)
    assert await kept("large", large, owner="you")
    clock.now += 4 * 3600
    assert await kept("later", large)
    await database.close(engine)
