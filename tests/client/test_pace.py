from __future__ import annotations

import asyncio

import pytest

from client.errors import InvalidRequest, ServerError, Throttled
from client.pace import Pace, _Drift


async def use(pace: Pace, error: Exception | None = None) -> None:
    async with pace.slot():
        if error is not None:
            raise error


async def test_no_more_than_the_limit_at_once() -> None:
    pace, most = Pace(3), 0

    async def one() -> None:
        nonlocal most
        async with pace.slot():
            most = max(most, pace.active)
            await asyncio.sleep(0)

    await asyncio.gather(*(one() for _ in range(20)))
    assert (most, pace.active) == (3, 0)


async def test_a_fixed_pace_stays() -> None:
    pace = Pace(3)
    for error in (None, Throttled("x"), ServerError("x")):
        await asyncio.gather(use(pace, error), return_exceptions=True)
    assert pace.limit == 3


async def test_twice_as_many_after_each_full_round_until_it_is_too_much() -> None:
    pace = Pace.auto(start=4, ceiling=64)
    for _ in range(4):
        await use(pace)
    assert pace.limit == 8


async def test_one_more_after_each_full_round_from_then_on() -> None:
    pace = Pace.auto(start=10, ceiling=64)
    with pytest.raises(Throttled):
        await use(pace, Throttled("x"))
    for _ in range(8):
        await use(pace)
    assert pace.limit == 8


async def test_never_above_the_ceiling() -> None:
    pace = Pace.auto(start=2, ceiling=3)
    for _ in range(50):
        await use(pace)
    assert pace.limit == 3


@pytest.mark.parametrize("error", [Throttled("x"), ServerError("x")])
async def test_fewer_when_the_server_has_enough(error: Exception) -> None:
    pace = Pace.auto(start=10)
    with pytest.raises(type(error)):
        await use(pace, error)
    assert pace.limit == 7


async def test_an_error_of_the_request_says_nothing_about_the_pace() -> None:
    pace = Pace.auto(start=10)
    with pytest.raises(InvalidRequest):
        await use(pace, InvalidRequest("x"))
    assert pace.limit == 10


async def test_one_round_of_refusals_is_one_signal() -> None:
    pace, all_in_flight = Pace.auto(start=10), asyncio.Barrier(10)

    async def one() -> None:
        async with pace.slot():
            await all_in_flight.wait()
            raise Throttled("x")

    await asyncio.gather(*(one() for _ in range(10)), return_exceptions=True)
    assert pace.limit == 7


async def test_never_below_one() -> None:
    pace = Pace.auto(start=2)
    for _ in range(20):
        await asyncio.gather(use(pace, Throttled("x")), return_exceptions=True)
    assert pace.limit == 1
    await use(pace)


async def test_retry_after_rests_all_places() -> None:
    pace, waits = Pace(3), []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        pace._rests_until = 0

    with pytest.raises(Throttled):
        await use(pace, Throttled("x", retry_after=20))
    async with pace.slot(sleep):
        pass
    assert waits == [pytest.approx(20, abs=1)]


async def test_a_place_is_given_back_by_who_leaves_while_waiting() -> None:
    pace = Pace(1)
    async with pace.slot():
        leaving = asyncio.create_task(use(pace))
        staying = asyncio.create_task(use(pace))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    await staying
    assert pace.active == 0


def throughput(drift: _Drift, limit: float, seconds: float, answers: int = 60) -> str:
    return [drift.seen(seconds, int(limit), limit) for _ in range(answers)][-1]


def test_grows_while_more_places_bring_more() -> None:
    drift = _Drift()
    for limit in (4, 8, 16, 32, 64):
        assert throughput(drift, limit, 1.0) == "grow"


def test_holds_where_twice_the_places_bring_no_more() -> None:
    drift = _Drift()
    assert throughput(drift, 8, 1.0) == "grow"
    assert throughput(drift, 16, 2.0) == "hold"


def test_eases_off_when_answers_become_slower() -> None:
    drift = _Drift()
    throughput(drift, 8, 1.0)
    assert throughput(drift, 8, 3.0) == "slower"


def test_jitter_of_quick_answers_tells_nothing() -> None:
    drift = _Drift()
    throughput(drift, 4, 0.001)
    assert throughput(drift, 4, 0.02) == "grow"
