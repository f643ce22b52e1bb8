from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.arrivals import BadSchedule, constant, parsed, poisson, ramp, steps


def test_constant_is_even() -> None:
    assert list(constant(4, 1)) == [0.0, 0.25, 0.5, 0.75]


def test_poisson_has_its_rate_and_its_variation() -> None:
    dues = list(poisson(50, 100, seed=1))
    gaps = [after - before for before, after in pairwise(dues)]
    average = sum(gaps) / len(gaps)

    assert len(dues) == pytest.approx(5000, rel=0.05)
    assert (sum((gap - average) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(average, rel=0.05)


def test_equal_seeds_are_equal_loads() -> None:
    assert list(poisson(5, 10, 7)) == list(poisson(5, 10, 7)) != list(poisson(5, 10, 8))


def test_steps_change_at_their_borders() -> None:
    dues = list(steps([1, 4], 4))

    assert [due for due in dues if due < 2] == [0.0, 1.0]
    assert len([due for due in dues if due >= 2]) == 8


def test_a_ramp_reaches_its_rate() -> None:
    dues = list(ramp(1, 9, 10))

    assert len(dues) == 50
    assert 1 / (dues[1] - dues[0]) == pytest.approx(1, rel=0.5)
    assert 1 / (dues[-1] - dues[-2]) == pytest.approx(9, rel=0.05)
    assert all(before < after for before, after in pairwise(dues))
    assert dues[-1] < 10


def test_a_run_can_be_replayed_faster(tmp_path: Path) -> None:
    trace = tmp_path / "records.jsonl"
    trace.write_text('{"run": {}}\n{"intended": 2000000000}\n{"intended": 1000000000}\n{"timestamp": 5}\n')

    assert list(parsed(f"trace:{trace}*2", 60, 0)) == [0.0, 0.5, 2.0]


@pytest.mark.parametrize("words", ["often", "constant:0", "poisson:-1", "ramp:1", "step:", "constant:x", "poisson:1,2"])
def test_a_schedule_that_is_none_is_named(words: str) -> None:
    with pytest.raises(BadSchedule, match=words):
        parsed(words, 10, 0)


def test_a_trace_without_times_is_refused(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"when": 1}\n')

    with pytest.raises(BadSchedule, match="has no time"):
        list(parsed(f"trace:{trace}", 10, 0))
