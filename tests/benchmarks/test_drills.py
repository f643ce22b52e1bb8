"""Each drill from end to end, short: a real gateway before a mock engine. And that each expectation can be missed."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.drills import DRILLS, drill
from benchmarks.findings import (
    Check,
    Expectation,
    Finding,
    Leftovers,
    Seen,
    engine_stops,
    fine_before,
    found,
    linked_answered,
    none_failed,
    others_unharmed,
    permits_return,
    refused_quickly,
    stall_shows,
    told_to_come_back,
    well_again,
)
from benchmarks.record import Record
from tests.benchmarks.made import evenly, record

CALM = evenly([0.1] * 90)
"""Nine seconds of ten requests a second, all of them well."""

REFUSED: dict[str, Any] = {"outcome": "ModelUnavailable", "status": 503}


def changed(first: int, last: int, seconds: float = 0.1, **values: Any) -> list[Record]:
    """The same with some that went otherwise."""
    return [*CALM[:first], *(record(at, at / 10, seconds, **values) for at in range(first, last)), *CALM[last:]]


def finding(records: list[Record], *expectations: Expectation, leftovers: Leftovers | None = None) -> Finding:
    return found(Seen(records, 3.0, leftovers or Leftovers(0, 0, 0, 0.0)), expectations)


def check(records: list[Record], expectation: Expectation, leftovers: Leftovers | None = None) -> Check:
    (only,) = finding(records, expectation, leftovers=leftovers).checks
    return only


@pytest.mark.ring3
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("name", "rate"), [(name, 40 if name == "engine-stalled" else 10) for name in DRILLS])
async def test_homescope_does_what_a_drill_expects(name: str, rate: float) -> None:
    seen, outcome = await drill(DRILLS[name], rate, 12)

    assert len(outcome.records) == rate * 12
    assert seen.checks
    assert [each.words for each in seen.checks if not each.met] == []


def test_a_request_that_was_about_when_things_broke_is_not_from_before() -> None:
    seen = finding(changed(29, 30, 3.0))

    assert (seen.before.requests, seen.during.requests, seen.after.requests) == (29, 31, 30)


def test_a_drill_knows_when_all_was_well_again() -> None:
    assert finding(changed(70, 71, **REFUSED)).recovered_s == pytest.approx(1.0)


def test_what_fails_until_the_end_is_not_well_again() -> None:
    records = changed(60, 90, **REFUSED)

    assert finding(records).recovered_s is None
    assert not check(records, well_again).met


@pytest.mark.parametrize(
    ("expectation", "records"),
    [
        (fine_before, changed(5, 10, 2.5)),
        (well_again, changed(60, 90, 2.5)),
        (refused_quickly, CALM),
        (refused_quickly, changed(35, 50, 6.0, **REFUSED)),
        (refused_quickly, changed(35, 50, outcome="ConnectionClosed", status=0)),
        (told_to_come_back, CALM),
        (told_to_come_back, changed(35, 50, outcome="InternalError", status=500)),
        (none_failed, changed(35, 36, **REFUSED)),
        (stall_shows, CALM),
        (stall_shows, changed(30, 60, 3.0)),
        (others_unharmed, changed(35, 50, 2.5)),
        (linked_answered, CALM),
    ],
)
def test_an_expectation_that_is_missed_is_told(expectation: Expectation, records: list[Record]) -> None:
    seen = finding(records, expectation)

    assert not seen.as_expected
    assert seen.to_dict()["checks"] == [{"words": seen.checks[0].words, "met": False}]


@pytest.mark.parametrize(
    ("expectation", "records"),
    [
        (refused_quickly, changed(35, 50, **REFUSED)),
        (told_to_come_back, changed(35, 50, outcome="Throttling", status=429)),
        (well_again, changed(60, 65, **REFUSED)),
    ],
)
def test_an_expectation_that_is_met_is_told(expectation: Expectation, records: list[Record]) -> None:
    assert check(records, expectation).met


def test_a_stall_that_only_requests_in_the_queue_saw_shows_from_when_they_were_due() -> None:
    """Each sent when the stall was over, 100 ms before its end."""
    waited = [record(at, at / 10, 6.1 - at / 10, sent=6_000_000_000, held=1) for at in range(30, 60)]

    assert check([*CALM[:30], *waited, *CALM[60:]], stall_shows).met


@pytest.mark.parametrize(
    ("leftovers", "returned", "stops"),
    [
        (Leftovers(0, 0, 15, 0.1), True, True),
        (Leftovers(1, 0, 15, 5.0), False, True),
        (Leftovers(0, 1, 15, 5.0), False, True),
        (Leftovers(0, 0, 3, 0.1), True, False),
    ],
)
def test_what_clients_leave_behind_is_judged(leftovers: Leftovers, returned: bool, stops: bool) -> None:
    records = changed(35, 50, outcome="HungUp")

    assert check(records, permits_return, leftovers).met == returned
    assert check(records, engine_stops, leftovers).met == stops
