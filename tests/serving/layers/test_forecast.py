from __future__ import annotations

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.layers.forecast import FEW, KEPT, LOOKED_AT, Holds

SECONDS = st.floats(0.0, 1000.0)


def known(*seconds: float) -> Holds:
    holds = Holds()
    for each in seconds:
        holds.add(each)
    return holds


@given(st.lists(SECONDS, min_size=1, max_size=100), st.lists(SECONDS, min_size=1, max_size=100), st.data())
def test_who_is_further_back_never_gets_in_sooner(seen: list[float], held: list[float], data: st.DataObject) -> None:
    holds = known(*seen)
    first, second = sorted(data.draw(st.tuples(st.integers(1, 300), st.integers(1, 300))))
    assert 0.0 <= holds.until_free(held, first) <= holds.until_free(held, second) + 1e-9


@given(st.lists(SECONDS, max_size=200))
def test_the_last_holds_are_kept_in_order(seen: list[float]) -> None:
    holds = known(*seen)
    assert holds._ordered == sorted(seen[-KEPT:])
    assert holds.known == (len(seen) >= FEW)


@pytest.mark.parametrize("places", [1, 2, 8, 64])
def test_of_equal_holds_the_forecast_is_exact(places: int) -> None:
    holds = known(*[2.0] * FEW)
    held = [2.0 - 0.01 * number for number in range(places)]
    for times in range(1, 3 * places):
        rounds, at = divmod(times - 1, places)
        assert holds.until_free(held, times) == pytest.approx(0.01 * at + 2.0 * rounds)


@pytest.mark.parametrize("places", [8, 64, 256])
def test_of_many_unequal_ones_some_end_soon(places: int) -> None:
    """Exponential holds: the rest of each is like the whole, and the first of so many ends after the mean by so many.
    Half to double of that over many draws, or a 64th; the median of each alone would say 0.7 means for all."""
    draw = random.Random(1)
    found = [
        known(*(draw.expovariate(1.0) for _ in range(KEPT))).until_free(
            [draw.expovariate(1.0) for _ in range(places)], 1
        )
        for _ in range(100)
    ]
    assert 0.5 < fmean(found) * min(places, LOOKED_AT) < 2.0


def test_short_ones_that_are_not_inside_any_more_do_not_mislead() -> None:
    """Nine of ten end at once, so that those inside are the long ones."""
    holds = known(*[0.1] * 54, *[10.0] * 6)
    assert holds.until_free([1.0, 2.0, 5.0, 9.0], 1) == pytest.approx(1.0)
