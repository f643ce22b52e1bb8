from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Overloaded
from serving.generation import Priority
from serving.layers.gate import Gate, Ticket

PRIORITIES: tuple[Priority, ...] = ("interactive", "background")
ENTRIES = st.tuples(st.integers(0, 12), st.sampled_from(PRIORITIES))
STEPS = st.lists(ENTRIES | st.integers(0, 20), max_size=60)
"""Someone comes with so many pixels, or number N of those who are there leaves."""


class Model:
    """What a gate promises, told as plainly as it goes: who is inside, and in which order the others wait."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.there: list[Ticket] = []

    def enter(self, pixels: int, priority: Priority) -> None:
        background = self.gate.waiting("background")
        full = self.gate.queued == self.gate.max_queued
        try:
            ticket = self.gate.enter(pixels, priority)
        except Overloaded:
            assert full
            assert priority == "background" or not background
            return
        self.there.append(ticket)
        for refused in [each for each in self.there if each.turn and each.turn.done() and not each.inside]:
            assert full
            assert (priority, refused.priority) == ("interactive", "background")
            assert isinstance(refused.turn and refused.turn.exception(), Overloaded)
            self.there.remove(refused)

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


@given(STEPS, st.integers(1, 4), st.integers(1, 10), st.integers(0, 5))
def test_what_a_gate_promises(
    steps: list[tuple[int, Priority] | int], max_in_flight: int, max_pixels: int, max_queued: int
) -> None:
    async def play() -> None:
        model = Model(Gate(max_in_flight, max_pixels, max_queued))
        for step in steps:
            if isinstance(step, int):
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
