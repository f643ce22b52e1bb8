from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from serving.cache.store import Memory
from serving.errors import EngineUnavailable, GenerationFailed, InvalidRequest
from serving.generation import Caller, Chunk, Generation, Message, Sampling, Text
from serving.layers.cached import Cached
from tests.fakes import FakeEngine

QUESTION = Generation("r", Caller("k", "test"), "m", (Message("user", (Text("hi"),)),), Sampling(temperature=0))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def layer(engine: FakeEngine) -> Cached:
    return Cached(engine, Memory(1_000_000, 3600))


def anew(question: Generation = QUESTION, **changes: Any) -> Generation:
    """The same question, asked by another request."""
    return replace(question, timeline=type(question.timeline)(), **changes)


async def ask(layer: Cached, question: Generation = QUESTION) -> list[Chunk]:
    async with aclosing(layer.generate(question)) as chunks:
        return [chunk async for chunk in chunks]


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came to that")


async def test_the_second_answer_is_the_first_with_its_usage(layer: Cached, engine: FakeEngine) -> None:
    engine.enqueue("营收", "增长", input_tokens=99, image_tokens=60)
    first, second = anew(), anew(streamed=True, request_id="other")
    told, again = await ask(layer, first), await ask(layer, second)
    assert (text(again), again[-1].finish_reason, again[-1].usage) == (text(told), "stop", told[-1].usage)
    assert (first.timeline.cached, second.timeline.cached) == ("miss", "hit")
    assert len(engine.history) == 1


@pytest.mark.parametrize(
    ("changes", "repeats"),
    [
        ({"sampling": Sampling(temperature=0.7)}, False),
        ({"sampling": Sampling()}, False),
        ({"sampling": Sampling(temperature=0.7, seed=1)}, True),
        ({"sampling": Sampling(top_k=1)}, True),
    ],
)
async def test_what_would_vary_is_asked_each_time(
    layer: Cached, engine: FakeEngine, changes: dict[str, Any], repeats: bool
) -> None:
    questions = [anew(**changes) for _ in range(2)]
    for question in questions:
        await ask(layer, question)
    assert len(engine.history) == (1 if repeats else 2)
    assert questions[0].timeline.cached == ("miss" if repeats else "bypass")


async def test_a_setting_keeps_what_varies(engine: FakeEngine) -> None:
    layer = Cached(engine, Memory(1_000_000, 3600), keep_all=True)
    for _ in range(2):
        await ask(layer, anew(sampling=Sampling(temperature=0.9)))
    assert len(engine.history) == 1


async def test_keys_do_not_share_unless_they_shall(engine: FakeEngine) -> None:
    store = Memory(1_000_000, 3600)
    others = anew(caller=Caller("another", "test"))
    for shared, expected in ((False, 2), (True, 3)):
        layer = Cached(engine, store, shared=shared)
        await ask(layer)
        await ask(layer, others)
        assert len(engine.history) == expected


async def test_a_herd_costs_one_answer(layer: Cached, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.always("one ", "two", gate=gate)
    herd = [asyncio.create_task(ask(layer, anew())) for _ in range(50)]
    await until(lambda: engine.running == 1)
    gate.set()
    assert {text(chunks) for chunks in await asyncio.gather(*herd)} == {"one two"}
    assert len(engine.history) == 1
    assert layer.counts == {"hit": 0, "joined": 49, "miss": 1, "bypass": 0}


async def test_whoever_asked_first_may_leave(layer: Cached, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.always("one ", "two", gate=gate)
    first = asyncio.create_task(ask(layer, anew()))
    await until(lambda: engine.running == 1)
    second = asyncio.create_task(ask(layer, anew()))
    await until(lambda: layer.counts["joined"] == 1)
    first.cancel()
    await asyncio.wait([first])
    assert engine.running == 1
    gate.set()
    assert text(await second) == "one two"
    assert len(engine.history) == 1


async def test_when_all_have_left_the_engine_stops(layer: Cached, engine: FakeEngine) -> None:
    engine.always("never", gate=asyncio.Event(), gated_from=1)
    herd = [asyncio.create_task(ask(layer, anew())) for _ in range(3)]
    await until(lambda: engine.running == 1)
    for task in herd:
        task.cancel()
    await asyncio.wait(herd)
    assert engine.running == 0
    engine.enqueue("fresh")
    assert text(await ask(layer, anew())) == "fresh"


async def test_a_failure_of_the_first_does_not_fail_the_others(layer: Cached, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.enqueue(error=EngineUnavailable(), gate=gate, gated_from=0)
    engine.always("well")
    herd = [asyncio.create_task(ask(layer, anew())) for _ in range(10)]
    await until(lambda: layer.counts["joined"] == 9)
    gate.set()
    ended = await asyncio.gather(*herd, return_exceptions=True)
    assert isinstance(ended[0], EngineUnavailable)
    assert [text(chunks) for chunks in ended[1:] if isinstance(chunks, list)] == ["well"] * 9
    assert len(engine.history) == 2


async def test_an_engine_that_keeps_failing_is_not_asked_by_each(layer: Cached, engine: FakeEngine) -> None:
    engine.always(error=GenerationFailed(), gate=(gate := asyncio.Event()), gated_from=0)
    herd = [asyncio.create_task(ask(layer, anew())) for _ in range(10)]
    await until(lambda: layer.counts["joined"] == 9)
    gate.set()
    ended = await asyncio.gather(*herd, return_exceptions=True)
    assert all(isinstance(each, GenerationFailed) for each in ended)
    assert len(engine.history) == 2


async def test_a_bad_request_is_refused_to_all_at_once(layer: Cached, engine: FakeEngine) -> None:
    engine.always(error=InvalidRequest("no"), gate=(gate := asyncio.Event()), gated_from=0)
    herd = [asyncio.create_task(ask(layer, anew())) for _ in range(5)]
    await until(lambda: layer.counts["joined"] == 4)
    gate.set()
    assert all(isinstance(each, InvalidRequest) for each in await asyncio.gather(*herd, return_exceptions=True))
    assert len(engine.history) == 1


async def test_half_an_answer_is_not_kept(layer: Cached, engine: FakeEngine) -> None:
    engine.enqueue("half", error=EngineUnavailable())
    engine.enqueue("whole")
    with pytest.raises(EngineUnavailable):
        await ask(layer, anew())
    assert text(await ask(layer, anew())) == "whole"


async def test_who_waits_for_the_answer_does_not_wait_for_the_background(layer: Cached, engine: FakeEngine) -> None:
    engine.enqueue("late", gate=(gate := asyncio.Event()), gated_from=1)
    background = asyncio.create_task(ask(layer, anew(priority="background")))
    await until(lambda: engine.running == 1)
    assert text(await ask(layer, anew())) == "ok"
    gate.set()
    await background


async def test_what_the_client_lets_the_cache_do(layer: Cached, engine: FakeEngine) -> None:
    for piece in ("first", "never", "fresh"):
        engine.enqueue(piece)
    assert text(await ask(layer, anew())) == "first"
    assert text(await ask(layer, anew(caching="never"))) == "never"
    assert text(await ask(layer, anew())) == "first"
    assert text(await ask(layer, anew(caching="refresh"))) == "fresh"
    assert text(await ask(layer, anew())) == "fresh"
    assert layer.counts == {"hit": 2, "joined": 0, "miss": 1, "bypass": 2}
