from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from serving.errors import GenerationFailed, Overloaded
from serving.generation import Caller, Generation, Image, ImageContent, Message, Text
from serving.layers.admitted import Admitted
from tests.fakes import FakeEngine

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
