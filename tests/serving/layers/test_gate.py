from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Overloaded
from serving.generation import Priority
from serving.layers.forecast import FEW
from serving.layers.gate import BACKGROUND_PATIENCE, LONGEST_RETRY_AFTER, MARGIN, Gate, Ticket

PRIORITIES: tuple[Priority, ...] = ("interactive", "background")
ENTRIES = st.tuples(st.integers(0, 12), st.sampled_from(PRIORITIES))
STEPS = st.lists(ENTRIES | st.integers(0, 20) | st.floats(0.0, 9.0), max_size=60)
"""Someone comes with so many pixels, number N of those who are there leaves, or so many seconds pass."""


class Model:
    """What a gate promises, told as plainly as it goes: who is inside, and in which order the others wait."""

    def __init__(self, max_in_flight: int, max_pixels: int, max_queued: int, patience: float) -> None:
        self.now = 0.0
        self.gate = Gate(max_in_flight, max_pixels, max_queued, patience, lambda: self.now)
        self.there: list[Ticket] = []

    def enter(self, pixels: int, priority: Priority) -> None:
        background = self.gate.waiting("background")
        full = self.gate.queued == self.gate.max_queued
        wait, refused = self.gate.expected_wait(pixels, priority), self.gate.refused.copy()
        free = self.free(pixels, priority)
        try:
            ticket = self.gate.enter(pixels, priority)
        except Overloaded as error:
            refusal = error
        else:
            assert ticket.inside == free
            self.there.append(ticket)
            self.made_room(priority, full)
            if wait is not None and not free:  # whoever is one further back waits no shorter
                assert (self.gate.expected_wait(pixels, priority) or 0.0) >= wait - 1e-6
            return
        assert not free
        assert refusal.retry_after in range(1, LONGEST_RETRY_AFTER + 1)
        if self.gate.refused - refused == {("would_wait", priority): 1}:
            assert priority == "interactive"
            assert wait is not None
            assert wait > MARGIN * self.gate.patience
        else:
            assert self.gate.refused - refused == {("full", priority): 1}
            assert full
            assert priority == "background" or not background

    def made_room(self, priority: Priority, full: bool) -> None:
        for refused in [each for each in self.there if each.turn and each.turn.done() and not each.inside]:
            assert full
            assert (priority, refused.priority) == ("interactive", "background")
            assert isinstance(refused.turn and refused.turn.exception(), Overloaded)
            self.there.remove(refused)

    def free(self, pixels: int, priority: Priority) -> bool:
        """Whether there is a place, and nobody before it."""
        if self.gate.waiting("interactive") or (priority == "background" and self.gate.queued):
            return False
        inside = [ticket for ticket in self.there if ticket.inside]
        fits = self.gate.pixels + pixels <= self.gate.max_pixels
        return not inside or (len(inside) < self.gate.max_in_flight and fits)

    def leave(self, number: int) -> None:
        if self.there:
            self.gate.leave(self.there.pop(number % len(self.there)))

    def check(self) -> None:
        gate = self.gate
        inside = [ticket for ticket in self.there if ticket.inside]
        waiting = [ticket for ticket in self.there if not ticket.inside]
        assert (gate.in_flight, gate.pixels) == (len(inside), sum(ticket.pixels for ticket in inside))
        assert gate.in_flight <= gate.max_in_flight
        assert gate.pixels <= gate.max_pixels or gate.in_flight == 1
        assert len(waiting) == gate.queued <= gate.max_queued
        if waiting:  # in order, nobody waits for nothing
            first = min(waiting, key=lambda ticket: ticket.priority == "background")
            full = gate.in_flight == gate.max_in_flight
            assert full or (inside and gate.pixels + first.pixels > gate.max_pixels)


@given(STEPS, st.integers(1, 4), st.integers(1, 10), st.integers(0, 5), st.floats(0.1, 20.0))
def test_what_a_gate_promises(
    steps: list[tuple[int, Priority] | int | float],
    max_in_flight: int,
    max_pixels: int,
    max_queued: int,
    patience: float,
) -> None:
    async def play() -> None:
        model = Model(max_in_flight, max_pixels, max_queued, patience)
        for step in steps:
            if isinstance(step, float):
                model.now += step
            elif isinstance(step, int):
                model.leave(step)
            else:
                model.enter(*step)
            model.check()
        while model.there:
            model.leave(0)
            model.check()
        assert (model.gate.in_flight, model.gate.pixels, model.gate.queued) == (0, 0, 0)

    asyncio.run(play())


async def test_interactive_goes_first_and_each_line_in_order() -> None:
    gate = Gate(1, 100, 10)
    running = gate.enter(1, "background")
    waiting = [gate.enter(1, priority) for priority in ("background", "interactive", "background", "interactive")]
    order = []
    while waiting:
        gate.leave(running)
        (running,) = [ticket for ticket in waiting if ticket.inside]
        waiting.remove(running)
        order.append(running.priority)
    assert order == ["interactive", "interactive", "background", "background"]


async def test_the_large_one_is_not_overtaken_for_ever() -> None:
    gate = Gate(10, 10, 10)
    small = gate.enter(5, "interactive")
    large = gate.enter(30, "interactive")
    later = gate.enter(1, "interactive")
    assert (large.inside, later.inside) == (False, False)
    gate.leave(small)
    assert (large.inside, later.inside) == (True, False)
    gate.leave(large)
    assert later.inside


async def test_a_full_queue_of_background_makes_room_for_one_who_waits_for_the_answer() -> None:
    gate = Gate(1, 10, 1)
    running = gate.enter(1, "interactive")
    patient = gate.enter(1, "background")
    hasty = gate.enter(1, "interactive")
    assert patient.turn is not None
    with pytest.raises(Overloaded):
        await patient.turn
    gate.leave(patient)
    gate.leave(running)
    assert hasty.inside


async def test_keys_go_in_turn() -> None:
    gate = Gate(max_in_flight=1, max_pixels=1000, max_queued=10)
    inside = gate.enter(1, "interactive", "x")
    waiting = [gate.enter(1, "interactive", holder) for holder in ("a", "a", "a", "b")]
    gate.leave(inside)
    assert [ticket.inside for ticket in waiting] == [True, False, False, False]
    gate.leave(waiting[0])
    assert [ticket.inside for ticket in waiting[1:]] == [False, False, True]


async def test_the_longest_line_of_a_full_queue_makes_room_for_another_key() -> None:
    gate = Gate(max_in_flight=1, max_pixels=1000, max_queued=3)
    gate.enter(1, "interactive", "x")
    swarm = [gate.enter(1, "interactive", "swarm") for _ in range(3)]
    with pytest.raises(Overloaded):
        gate.enter(1, "interactive", "swarm")
    other = gate.enter(1, "interactive", "other")
    assert gate.queued == 3
    assert other.turn is not None
    assert not other.turn.done()
    assert swarm[2].turn is not None
    with pytest.raises(Overloaded):
        await swarm[2].turn
    with pytest.raises(Overloaded):  # lines of two and one: nobody has to make room
        gate.enter(1, "interactive", "other")


def taught(*holds: float, places: int = 1, patience: float = 1.0, queued: int = 10) -> tuple[Gate, list[float]]:
    """A gate that knows of these holds, and its clock."""
    clock = [0.0]
    gate = Gate(places, 1000, queued, patience, lambda: clock[0])
    for hold in holds:
        gate.holds.add(hold)
    return gate, clock


async def test_who_would_wait_too_long_is_refused_at_once() -> None:
    gate, clock = taught(*[2.0] * FEW)
    gate.enter(1, "interactive")
    clock[0] = 0.9
    with pytest.raises(Overloaded) as raised:
        gate.enter(1, "interactive")
    assert raised.value.retry_after == 2  # 1.1 seconds, and headers have no fractions
    clock[0] = 1.2
    assert not gate.enter(1, "interactive").inside
    with pytest.raises(Overloaded) as raised:  # behind the one who waits: 2.8 s
        gate.enter(1, "interactive")
    assert raised.value.retry_after == 3
    assert gate.refused == {("would_wait", "interactive"): 2}


async def test_nobody_is_refused_on_a_guess() -> None:
    gate, _ = taught(*[100.0] * (FEW - 1))
    gate.enter(1, "interactive")
    assert gate.expected_wait(1, "interactive") is None
    assert not gate.enter(1, "interactive").inside


async def test_background_waits_however_long_it_takes() -> None:
    gate, _ = taught(*[100.0] * FEW, queued=2)
    gate.enter(1, "interactive")
    assert not gate.enter(1, "background").inside
    with pytest.raises(Overloaded):
        gate.enter(1, "interactive")
    assert gate.waiting("background") == 1  # no room was made for one who would not have waited
    assert not gate.enter(1, "background").inside
    assert gate.patience_of("background") == BACKGROUND_PATIENCE


async def test_the_wait_is_that_of_the_turn() -> None:
    """Not of the length of the line: another key's turn comes sooner than the third one of the same."""
    gate, _ = taught(*[2.0] * FEW, patience=100.0)
    for _ in range(3):
        gate.enter(1, "interactive", "swarm")
    gate.enter(1, "background", "jobs")
    waits = [gate.expected_wait(1, "interactive", holder) for holder in ("other", "swarm")]
    assert waits == [pytest.approx(4.0), pytest.approx(6.0)]
    assert gate.longest_wait == pytest.approx(6.0)
    assert gate.expected_wait(1, "background", "others") == pytest.approx(8.0)


async def test_a_large_one_waits_for_several_to_leave() -> None:
    gate, clock = taught(*[2.0] * FEW, places=10, patience=100.0)
    for _ in range(4):
        gate.enter(250, "interactive")
        clock[0] += 0.1
    waits = [gate.expected_wait(pixels, "interactive") for pixels in (0, 250, 1000, 5000)]
    assert waits == [0.0, pytest.approx(1.6), pytest.approx(1.9), pytest.approx(1.9)]


async def test_one_that_hangs_does_not_look_about_to_end() -> None:
    gate, clock = taught(*[2.0] * FEW)
    gate.enter(1, "interactive")
    waits = []
    for clock[0] in (2.01, 3.0, 30.0):
        waits.append(gate.expected_wait(1, "interactive"))
    assert waits == [pytest.approx(0.01), pytest.approx(1.0), pytest.approx(28.0)]


async def test_what_was_held_long_ago_is_forgotten() -> None:
    gate, clock = taught(*[60.0] * 100, patience=5.0)
    for _ in range(64):
        inside = gate.enter(1, "interactive")
        clock[0] += 1.0
        gate.leave(inside)
    gate.enter(1, "interactive")
    assert gate.expected_wait(1, "interactive") == pytest.approx(1.0)


async def test_who_has_to_make_room_is_counted() -> None:
    gate, _ = taught(queued=1)
    gate.enter(1, "interactive")
    patient = gate.enter(1, "background")
    gate.enter(1, "interactive")
    assert patient.turn is not None
    assert isinstance(patient.turn.exception(), Overloaded)
    assert gate.refused == {("full", "background"): 1}


ARRIVALS = st.lists(st.tuples(st.floats(0.0, 1.0), st.sampled_from("abc")), max_size=30)


class Played:
    """A gate whose places are all held for `HOLD` seconds each, by a clock that goes on as told."""

    HOLD = 2.0

    def __init__(self, places: int) -> None:
        self.now = 0.0
        self.gate = Gate(places, 1000, 1000, clock=lambda: self.now)
        for _ in range(FEW):
            self.gate.holds.add(self.HOLD)
        self.there: list[Ticket] = []

    def enter(self, holder: str) -> Ticket:
        self.there.append(self.gate.enter(0, "interactive", holder))
        return self.there[-1]

    def to_next_end(self, until: float) -> None:
        """To when the next one leaves, which it does, or to `until`."""
        inside = [ticket for ticket in self.there if ticket.inside]
        first = min(inside, key=lambda ticket: ticket.since, default=None)
        if first is None or first.since + self.HOLD > until:
            self.now = until
            return
        self.now = max(self.now, first.since + self.HOLD)
        self.there.remove(first)
        self.gate.leave(first)


@given(ARRIVALS, st.integers(1, 5), st.sampled_from("abcd"))
def test_of_equal_holds_each_waits_as_foretold(arrivals: list[tuple[float, str]], places: int, holder: str) -> None:
    async def play() -> None:
        played = Played(places)
        for pause, other in arrivals:
            until = played.now + pause
            while played.now < until:
                played.to_next_end(until)
            played.enter(other)
        came, wait = played.now, played.gate.expected_wait(0, "interactive", holder)
        ticket = played.enter(holder)
        while not ticket.inside:
            played.to_next_end(float("inf"))
        assert played.now - came == pytest.approx(wait, abs=1e-6)

    asyncio.run(play())
