from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import aclosing
from dataclasses import replace

import pytest

from serving.errors import GenerationFailed, Overloaded
from serving.generation import Caller, Generation, Image, ImageContent, Message, Text
from serving.layers.admitted import Admitted
from serving.layers.forecast import FEW
from tests.fakes import FakeEngine
from tests.instant import played

QUESTION = Generation("r", Caller("k", "test"), "m", (Message("user", (Text("hi"),)),))


def admitted(engine: FakeEngine, *, running: int = 1, queued: int = 1, timeout: float = 5) -> Admitted:
    return Admitted(engine, max_in_flight=running, max_queued=queued, queue_timeout=timeout)


async def consume(layer: Admitted, question: Generation = QUESTION) -> int:
    async with aclosing(layer.generate(question)) as chunks:
        return len([chunk async for chunk in chunks])


async def started(layer: Admitted, count: int) -> None:
    """Until so many generations run or wait; each turn of the loop brings them nearer."""
    for _ in range(100):
        if layer.in_flight + layer.queued == count:
            return
        await asyncio.sleep(0)
    pytest.fail(f"{layer.in_flight} run and {layer.queued} wait, not {count} together")


async def test_runs_some_queues_some_refuses_the_rest_at_once() -> None:
    engine, gate = FakeEngine(), asyncio.Event()
    engine.always("a", gate=gate)
    layer = admitted(engine, running=2, queued=3)
    accepted = [asyncio.create_task(consume(layer)) for _ in range(5)]
    await started(layer, 5)
    assert (layer.in_flight, layer.queued, engine.running) == (2, 3, 2)
    with pytest.raises(Overloaded) as raised:
        await consume(layer)
    assert raised.value.retry_after == 2
    gate.set()
    assert await asyncio.gather(*accepted) == [2] * 5
    assert (layer.in_flight, layer.queued) == (0, 0)


async def test_waiting_too_long_is_overload_too() -> None:
    engine = FakeEngine()
    engine.always("a", gate=asyncio.Event())
    layer = admitted(engine, timeout=0.01)
    running = asyncio.create_task(consume(layer))
    await started(layer, 1)
    with pytest.raises(Overloaded):
        await consume(layer)
    running.cancel()
    await asyncio.wait([running])
    assert (layer.in_flight, layer.queued) == (0, 0)


async def test_the_permit_returns_when_the_engine_fails() -> None:
    engine = FakeEngine()
    engine.enqueue("a", error=GenerationFailed())
    layer = admitted(engine)
    with pytest.raises(GenerationFailed):
        await consume(layer)
    assert await consume(layer) == 2


async def test_the_permit_returns_when_the_stream_is_closed_early() -> None:
    engine = FakeEngine()
    layer = admitted(engine)
    async with aclosing(layer.generate(QUESTION)) as chunks:
        await anext(chunks)
        assert layer.in_flight == 1
    assert (layer.in_flight, engine.running) == (0, 0)


async def test_a_place_is_not_lost_when_a_waiting_request_is_cancelled() -> None:
    engine, gate = FakeEngine(), asyncio.Event()
    engine.always("a", gate=gate)
    layer = admitted(engine)
    running, waiting = asyncio.create_task(consume(layer)), asyncio.create_task(consume(layer))
    await started(layer, 2)
    waiting.cancel()
    gate.set()
    assert await running == 2
    assert await consume(layer) == 2


async def test_pixels_are_counted_as_the_model_sees_them() -> None:
    engine, gate = FakeEngine(), asyncio.Event()
    engine.always("a", gate=gate)
    layer = Admitted(engine, max_in_flight=9, max_queued=9, queue_timeout=5, max_pixels=3 * 1024)
    image = Image("", ImageContent(b"", "PNG", 4000, 3000, tokens=2))
    question = replace(QUESTION, messages=(Message("user", (image,)),))
    tasks = [asyncio.create_task(consume(layer, question)) for _ in range(2)]
    await started(layer, 2)
    assert (layer.in_flight, layer.queued, layer.gate.pixels) == (1, 1, 2 * 1024)
    gate.set()
    await asyncio.gather(*tasks)
    assert layer.gate.pixels == 0


async def test_a_waiting_background_is_refused_in_favour_of_an_interactive_one() -> None:
    engine, gate = FakeEngine(), asyncio.Event()
    engine.always("a", gate=gate)
    layer = admitted(engine)
    tasks = [asyncio.create_task(consume(layer))]
    await started(layer, 1)
    patient = asyncio.create_task(consume(layer, replace(QUESTION, priority="background")))
    await started(layer, 2)
    tasks.append(asyncio.create_task(consume(layer)))
    with pytest.raises(Overloaded):
        await patient
    gate.set()
    assert await asyncio.gather(*tasks) == [2, 2]
    assert (layer.in_flight, layer.queued) == (0, 0)


async def test_background_waits_where_the_interactive_would_be_refused() -> None:
    engine, gate = FakeEngine(), asyncio.Event()
    engine.always("a", gate=gate)
    layer = admitted(engine, timeout=0.01)
    for _ in range(FEW):
        layer.gate.holds.add(100.0)
    tasks = [asyncio.create_task(consume(layer))]
    await started(layer, 1)
    tasks.append(asyncio.create_task(consume(layer, replace(QUESTION, priority="background"))))
    await started(layer, 2)
    with pytest.raises(Overloaded) as raised:
        await consume(layer)
    assert raised.value.retry_after == 60
    await asyncio.sleep(0.05)
    gate.set()
    assert await asyncio.gather(*tasks) == [2, 2]


class Crowd:
    """Many who ask by a clock that does not wait, and what they got."""

    def __init__(self, layer: Admitted) -> None:
        self.layer = layer
        self.accepted: list[float] = []
        self.refused: list[float] = []
        """Seconds that each of them waited."""

    async def ask(self, key: str) -> None:
        came = asyncio.get_running_loop().time()
        question = replace(QUESTION, caller=Caller(key, key))
        try:
            async with aclosing(self.layer.generate(question)) as chunks:
                await anext(chunks)
                self.accepted.append(asyncio.get_running_loop().time() - came - SECONDS / 2)
                async for _ in chunks:
                    pass
        except Overloaded:
            self.refused.append(asyncio.get_running_loop().time() - came)

    async def come(self, rate: float, seconds: float, keys: str) -> None:
        randomness, loop = random.Random(1), asyncio.get_running_loop()
        end = loop.time() + seconds
        async with asyncio.TaskGroup() as group:
            while loop.time() < end:
                await asyncio.sleep(randomness.expovariate(rate))
                group.create_task(self.ask(randomness.choice(keys)))


SECONDS = 2.0
"""That an answer takes, half of it until its first piece."""


@pytest.mark.parametrize("places", [1, 8, 32])
@pytest.mark.parametrize("patience", [0.25, 4.0])
def test_of_ten_times_too_many_the_accepted_wait_little_and_the_refused_not_at_all(
    places: int, patience: float
) -> None:
    async def play() -> tuple[Crowd, Counter[str]]:
        engine = FakeEngine()
        engine.always("a", interval=SECONDS / 2)
        clock = asyncio.get_running_loop().time
        layer = Admitted(engine, max_in_flight=places, max_queued=1000, queue_timeout=patience, clock=clock)
        await Crowd(layer).come(places / SECONDS / 2, max(20.0, 240 / places), "a")
        crowd, before = Crowd(layer), layer.gate.refused.copy()
        await crowd.come(places / SECONDS * 10, 480 / places, "a")
        return crowd, Counter({reason: count for (reason, _), count in (layer.gate.refused - before).items()})

    crowd, reasons = played(play())
    work = 480 / SECONDS  # answers of all places in that time: the engine is not left idle, and nobody is let in beyond
    assert 0.9 * work <= len(crowd.accepted) <= work + places * (1 + patience / SECONDS)
    assert max(crowd.accepted) <= patience + 1e-6
    in_vain = sum(wait > 0.0 for wait in crowd.refused)
    assert in_vain < 0.01 * len(crowd.refused)
    assert reasons == {"would_wait": len(crowd.refused) - in_vain} | ({"waited": in_vain} if in_vain else {})
