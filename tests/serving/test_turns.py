from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.turns import Turns


def served(turns: Turns[str]) -> str:
    order = []
    while turns:
        holder, _ = turns.heads[0]
        order.append(turns.take(holder))
    return " ".join(order)


def test_holders_are_served_in_turn_and_each_in_order() -> None:
    turns: Turns[str] = Turns()
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        turns.add(item[0], item)
    assert len(turns) == 6
    assert (turns.longest, turns.of("b"), turns.of("z")) == ("a", 2, 0)
    assert served(turns) == "a1 b1 c1 a2 b2 a3"


def test_who_leaves_is_not_served() -> None:
    turns: Turns[str] = Turns()
    for item in ("a1", "a2", "b1"):
        turns.add(item[0], item)
    assert turns.remove("a", "a1")
    assert not turns.remove("a", "a1")
    assert turns.take_last("b") == "b1"
    assert served(turns) == "a2"
    assert not turns


@given(st.lists(st.sampled_from("abc"), max_size=20), st.integers(0, 3), st.sampled_from("abcd"))
def test_how_many_come_before_is_how_many_are_served_before(adds: list[str], taken: int, holder: str) -> None:
    turns: Turns[str] = Turns()
    for number, each in enumerate(adds):
        turns.add(each, f"{each}{number}")
    for _ in range(min(taken, len(turns))):
        turns.take(turns.first[0])
    foretold, before = list(turns), turns.before(holder)
    turns.add(holder, "new")
    order = served(turns).split()
    assert order.index("new") == before
    assert [item for item in order if item != "new"] == foretold
