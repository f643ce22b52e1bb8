from __future__ import annotations

import pytest

from benchmarks.capacity import Capacity, capacity_page, search
from benchmarks.report import Objective, Report, report
from tests.benchmarks.made import evenly


class Server:
    """Quick up to a rate, slow beyond it."""

    def __init__(self, limit: float, lags_above: float = 1e9) -> None:
        self.limit, self.lags_above = limit, lags_above
        self.tried: list[float] = []

    async def trial(self, rate: float) -> Report:
        self.tried.append(rate)
        run = {"loop_delay_p99_ms": 50.0} if rate > self.lags_above else {}
        return report(evenly([0.1 if rate <= self.limit else 5.0] * 20, rate), run, Objective({"e2e": 1.0}))


@pytest.mark.parametrize("limit", [0.7, 3.3, 17.0, 90.0])
async def test_the_search_finds_the_limit(limit: float) -> None:
    found = await search(Server(limit).trial, low=0.5, high=1000, precision=0.05, most=20)

    assert limit * 0.93 <= found.highest <= limit


async def test_a_server_that_never_misses_has_the_highest_rate() -> None:
    assert (await search(Server(1e9).trial, low=1, high=10)).highest == 10


async def test_a_server_that_always_misses_has_none() -> None:
    found = await search(Server(0.0).trial, low=1, high=10)

    assert found.highest == 0.0
    assert found.lowest_missed is not None


async def test_what_the_generator_could_not_do_is_nothing_that_the_server_can() -> None:
    found = await search(Server(1e9, lags_above=8).trial, low=1, high=1000)

    assert 7 < found.highest <= 8


async def test_the_curve_is_a_page() -> None:
    found: Capacity = await search(Server(3.0).trial, low=1, high=10)

    page = capacity_page(found, "Capacity <of> one")

    assert "Capacity &lt;of&gt; one" in page
    assert page.count("<figure>") == 2
    assert found.to_dict()["requests_per_second"] == found.highest
