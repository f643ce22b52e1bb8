from __future__ import annotations

import asyncio

import pytest

from serving.budget import Budget
from serving.errors import InvalidRequest, Overloaded


async def test_a_swarm_of_one_key_leaves_room_for_another() -> None:
    budget = Budget(1000, patience=60)
    swarm = [asyncio.create_task(budget.take(100, "swarm")) for _ in range(50)]
    await asyncio.sleep(0)
    assert sum(task.done() for task in swarm) == 8
    assert await asyncio.wait_for(budget.take(100, "other"), 5) == 100
    for task in swarm:
        task.cancel()
    await asyncio.wait(swarm)
    budget.give(900, "swarm")
    assert budget.free == 1000 - 800 - 100 + 900


async def test_keys_get_what_comes_free_in_turn() -> None:
    budget = Budget(100, patience=60)
    await budget.take(100, "x")
    order: list[str] = []

    async def wait(holder: str) -> None:
        await budget.take(100, holder)
        order.append(holder)
        budget.give(100, holder)

    tasks = [asyncio.create_task(wait(holder)) for holder in ("a", "a", "a", "b", "c")]
    await asyncio.sleep(0)
    budget.give(100, "x")
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c", "a", "a"]
    assert budget.free == 100


async def test_who_waits_too_long_is_refused_and_keeps_nothing() -> None:
    budget = Budget(100, patience=0.01)
    await budget.take(100, "a")
    with pytest.raises(Overloaded) as raised:
        await budget.take(1, "b")
    assert raised.value.retry_after == 2
    budget.give(100, "a")
    assert budget.free == 100


async def test_a_claim_never_waits() -> None:
    budget = Budget(100, patience=60)
    budget.claim(70, "a")
    with pytest.raises(Overloaded):
        budget.claim(11, "a")  # beyond its share, though free
    budget.claim(30, "b")
    with pytest.raises(Overloaded):
        budget.claim(1, "c")
    budget.give(70, "a")
    budget.claim(1, "c")


async def test_a_claim_does_not_overtake_its_own_line() -> None:
    budget = Budget(100, patience=60)
    budget.claim(60, "a")
    waiting = asyncio.create_task(budget.take(40, "a"))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        budget.claim(1, "a")
    budget.give(60, "a")
    assert await waiting == 40


async def test_a_request_that_can_never_be_served_is_told_so_at_once() -> None:
    budget = Budget(100, patience=60)
    async with budget.lease("a") as lease:
        lease.keep(await lease.take(60))
        with pytest.raises(InvalidRequest, match="take 90 bytes of memory or more, at most 80 can be had"):
            await lease.take(30)
        lease.release(60)
        assert await lease.take(100) == 100
    assert budget.free == 100


async def test_who_leaves_the_line_lets_the_next_one_in() -> None:
    budget = Budget(100, patience=60)
    await budget.take(60, "a")
    large = asyncio.create_task(budget.take(90, "b"))
    small = asyncio.create_task(budget.take(40, "c"))
    await asyncio.sleep(0)
    assert not small.done()
    large.cancel()
    assert await asyncio.wait_for(small, 5) == 40
