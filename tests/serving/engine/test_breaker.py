from __future__ import annotations

from dataclasses import dataclass

import pytest

from serving.engine.breaker import FAILED_ANSWERS, Breaker, State


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


def test_it_opens_closes_by_one_trial_and_lets_no_second_one_through(breaker: Breaker, clock: Clock) -> None:
    breaker.gone(breaker.begin())
    assert not breaker.lets_through
    breaker.probed()
    assert breaker.state is State.OPEN
    clock.now += 0.5
    breaker.probed()
    assert breaker.lets_through
    trial = breaker.begin()
    assert not breaker.lets_through
    breaker.answered(trial)
    assert (breaker.state, breaker.lets_through) == (State.CLOSED, True)


def test_the_pause_doubles_up_to_a_limit(breaker: Breaker, clock: Clock) -> None:
    pauses = []
    for _ in range(9):
        breaker.gone(breaker.begin())
        began = clock.now
        while breaker.state is State.OPEN:
            clock.now += 0.5
            breaker.probed()
        pauses.append(clock.now - began)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_who_came_back_is_tried_at_once(breaker: Breaker) -> None:
    breaker.gone(breaker.begin())
    breaker.probed(came_back=True)
    assert breaker.state is State.HALF_OPEN


def test_many_that_fail_together_are_one_failure(breaker: Breaker, clock: Clock) -> None:
    eras = [breaker.begin() for _ in range(50)]
    for era in eras:
        breaker.gone(era)
    clock.now += 0.5
    breaker.probed()
    assert breaker.state is State.HALF_OPEN


def test_what_began_before_does_not_close_it(breaker: Breaker) -> None:
    early = breaker.begin()
    breaker.gone(breaker.begin())
    breaker.answered(early)
    assert breaker.state is State.OPEN


def test_a_trial_that_was_given_up_makes_room_for_the_next(breaker: Breaker) -> None:
    breaker.gone(breaker.begin())
    breaker.probed(came_back=True)
    breaker.left(breaker.begin())
    assert breaker.lets_through


def test_failed_answers_in_a_row_open_it(breaker: Breaker) -> None:
    for _ in range(FAILED_ANSWERS - 1):
        breaker.failed(breaker.begin())
    breaker.answered(breaker.begin())
    for _ in range(FAILED_ANSWERS):
        assert breaker.lets_through
        breaker.failed(breaker.begin())
    assert not breaker.lets_through
