from __future__ import annotations

from dataclasses import replace

import pytest

from client.errors import (
    ConnectionFailed,
    ConnectionLost,
    HomescopeError,
    InvalidRequest,
    ServerError,
    Throttled,
    TimedOut,
    Unauthorized,
    UnusableImage,
)
from client.retry import Budget, Policy, delay, persist

POLICY = Policy(attempts=4, throttled_attempts=9, timeout_attempts=2, base=0.5, cap=3.0, longest_retry_after=60)


@pytest.mark.parametrize(
    ("attempt", "error", "longest"),
    [
        (1, ServerError("x", status=500), 0.5),
        (2, ServerError("x", status=500), 1.0),
        (3, ServerError("x", status=500), 2.0),
        (4, ServerError("x", status=500), None),
        (3, ConnectionFailed("x"), 2.0),
        (4, ConnectionLost("x"), None),
        (1, TimedOut("x"), 0.5),
        (2, TimedOut("x"), None),
        (4, Throttled("x", status=429), 3.0),
        (8, Throttled("x", status=429), 3.0),
        (9, Throttled("x", status=429), None),
        (1, InvalidRequest("x", status=400), None),
        (1, Unauthorized("x", status=401), None),
        (1, UnusableImage("x"), None),
    ],
)
def test_delay(attempt: int, error: HomescopeError, longest: float | None) -> None:
    assert delay(attempt, error, POLICY, lambda: 1.0) == longest
    if longest is not None:
        assert delay(attempt, error, POLICY, lambda: 0.0) == 0.0


def test_retry_after_is_a_floor_with_jitter_above() -> None:
    error = Throttled("x", status=429, retry_after=7.0)
    assert delay(1, error, POLICY, lambda: 0.0) == 7.0
    assert delay(1, error, POLICY, lambda: 1.0) == 7.5


def test_retry_after_beyond_patience_gives_up() -> None:
    assert delay(1, Throttled("x", status=429, retry_after=61.0), POLICY) is None


@pytest.mark.parametrize("failures", [0, 1, 3])
async def test_persist_asks_until_it_succeeds(failures: int) -> None:
    outcomes: list[HomescopeError | None] = [*(ServerError("x") for _ in range(failures)), None]
    slept: list[float] = []

    async def once() -> str:
        if error := outcomes.pop(0):
            raise error
        return "answer"

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    assert await persist(once, POLICY, sleep) == "answer"
    assert len(slept) == failures


async def test_persist_raises_the_last_error() -> None:
    async def once() -> str:
        raise InvalidRequest("no", status=400)

    with pytest.raises(InvalidRequest, match="no"):
        await persist(once, POLICY)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_budget_is_a_share_of_the_requests() -> None:
    clock = Clock()
    budget = Budget(0.25, reserve=10, clock=clock)
    assert sum(budget.spend() for _ in range(50)) == 10, "the reserve"
    for _ in range(100):
        budget.request()
    assert sum(budget.spend() for _ in range(50)) == 25
    clock.now += 4
    assert sum(budget.spend() for _ in range(50)) == 2


async def test_without_budget_it_waits_and_then_gives_up() -> None:
    clock, asked = Clock(), 0
    budget = Budget(0, reserve=0, per_second=0, clock=clock)

    async def once() -> None:
        nonlocal asked
        asked += 1
        raise ServerError("x")

    with pytest.raises(ServerError):
        await persist(once, POLICY, clock.sleep, budget, clock)
    assert asked == 1
    assert clock.now >= POLICY.cap


async def test_429_needs_no_budget() -> None:
    clock, answers = Clock(), [Throttled("x"), Throttled("x")]
    budget = Budget(0, reserve=0, per_second=0, clock=clock)

    async def once() -> str:
        if answers:
            raise answers.pop()
        return "ok"

    assert await persist(once, POLICY, clock.sleep, budget, clock) == "ok"


async def test_nothing_begins_after_the_deadline() -> None:
    clock, asked = Clock(), 0

    async def once() -> None:
        nonlocal asked
        asked += 1
        clock.now += 4
        raise Throttled("x", retry_after=2)

    with pytest.raises(Throttled):
        await persist(once, replace(POLICY, deadline=17), clock.sleep, clock=clock)
    assert asked == 3
