from __future__ import annotations

import random

import numpy as np
import pytest

from benchmarks.estimates import bootstrap, mean, percentile, quantile, trend


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.9, 90), (0.99, 99), (0.999, 100), (0.001, 1), (1.0, 100)]
)
def test_percentiles_are_values_that_were_measured(share: float, expected: int) -> None:
    assert percentile(range(1, 101), share) == expected


def test_one_value_is_every_percentile() -> None:
    assert percentile([7.0], 0.5) == percentile([7.0], 0.999) == 7.0


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no value"):
        percentile([], 0.5)


def test_the_interval_of_a_median_is_the_tables() -> None:
    """Conover's table: for n = 20 the 6th and the 15th value hold the median with 95.9 %."""
    estimate = quantile(list(range(1, 21)), 0.5)

    assert (estimate.low, estimate.high) == (6, 15)


def test_a_small_sample_does_not_know_how_slow_the_slowest_are() -> None:
    estimate = quantile([float(each) for each in range(100)], 0.999)

    assert estimate.value == 99
    assert estimate.high is None


@pytest.mark.parametrize("count", [300, 5000])
def test_intervals_cover_the_truth_as_often_as_they_say(count: int) -> None:
    """The same for the exact interval of few values and the approximate one of many."""
    rng, covered = random.Random(1), 0
    for _ in range(200):
        estimate = quantile(sorted(rng.random() for _ in range(count)), 0.9)
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= 0.9 <= estimate.high

    assert covered >= 182


def test_the_mean_of_few_values_has_no_interval() -> None:
    assert mean([1.0, 2.0, 3.0]).low is None


def test_neighbours_that_depend_on_each_other_make_the_mean_less_certain() -> None:
    rng = random.Random(3)
    independent = [rng.random() for _ in range(2000)]
    slow = [value for value in independent[:100] for _ in range(20)]

    def width(values: list[float]) -> float:
        found = mean(values)
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    assert width(slow) > 2 * width(independent)


def test_the_bootstrap_keeps_pairs_together() -> None:
    values = np.array([[each, each + 1.0] for each in range(100)])

    found = bootstrap(values, lambda rows: float((rows[:, 1] - rows[:, 0]).mean()), rounds=200)

    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_growth_is_a_trend_and_noise_is_none() -> None:
    rng = random.Random(5)
    noise = [1 + rng.random() / 10 for _ in range(16)]

    assert trend(noise).steady
    assert not trend([value + at / 20 for at, value in enumerate(noise)]).steady


def test_what_never_changes_is_steady() -> None:
    found = trend([2.0] * 16)

    assert (found.p, found.change, found.variation, found.steady) == (1.0, 0.0, 0.0, True)
