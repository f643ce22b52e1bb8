from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from serving.engine import discovery, spread
from serving.engine.pool import MAX_TRIES, Pool
from serving.engine.replica import LOST_AFTER, Replica
from serving.errors import EngineUnavailable, GenerationFailed, InvalidRequest, Overloaded, ServingError
from serving.generation import Caller, Chunk, Generation, Image, ImageContent, Message, Part, Text
from tests.fakes import FakeEngine

QUESTION = Generation("r", Caller("k", "test"), "m", (Message("user", (Text("hi"),)),))
URLS = ("http://a", "http://b", "http://c")


def about(*images: bytes) -> Generation:
    parts: tuple[Part, ...] = tuple(Image("data:,", ImageContent(data, "PNG", 64, 64, tokens=6)) for data in images)
    return replace(QUESTION, messages=(Message("user", parts),))


@pytest.fixture
def engines() -> dict[str, FakeEngine]:
    return {url: FakeEngine() for url in URLS}


@pytest.fixture
def drained() -> set[str]:
    return set()


@pytest.fixture
async def pool(engines: dict[str, FakeEngine], drained: set[str]) -> AsyncGenerator[Pool, None]:
    pool = Pool(URLS, engines.__getitem__, drained=lambda: drained, look_every=3600)
    await pool.start()
    yield pool
    await pool.aclose()


async def ask(pool: Pool, generation: Generation = QUESTION) -> list[Chunk]:
    async with aclosing(pool.generate(generation)) as chunks:
        return [chunk async for chunk in chunks]


def asked(engines: dict[str, FakeEngine]) -> list[int]:
    return [len(engine.history) for engine in engines.values()]


async def until(condition: object) -> None:
    assert callable(condition)
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came to that")


async def test_who_has_least_to_do_gets_the_next(pool: Pool, engines: dict[str, FakeEngine]) -> None:
    gate = asyncio.Event()
    for engine in engines.values():
        engine.always("a", gate=gate, gated_from=2)
    streams = [pool.generate(QUESTION) for _ in range(6)]
    for stream in streams:
        await anext(stream)
    assert asked(engines) == [2, 2, 2]
    for stream in streams:
        await stream.aclose()
    assert {(replica.weight, replica.outstanding) for replica in pool.replicas} == {(0, 0)}


async def test_a_second_question_about_an_image_finds_it(pool: Pool, engines: dict[str, FakeEngine]) -> None:
    for number in range(40):
        for _ in range(3):
            await ask(pool, about(b"image %d" % number, b"other %d" % number))
    for engine in engines.values():
        counts = Counter(generation.images[0].content for generation in engine.history)
        assert set(counts.values()) == {3}
    assert min(asked(engines)) > 0


async def test_a_replica_that_is_gone_costs_its_images_alone() -> None:
    replicas = [Replica(f"http://{number}", FakeEngine()) for number in range(5)]
    questions = [about(b"%d" % number) for number in range(200)]
    before = [spread.choose(question, replicas) for question in questions]
    after = [spread.choose(question, replicas[1:]) for question in questions]
    assert all(new is old for old, new in zip(before, after, strict=True) if old is not replicas[0])


async def test_no_replica_gets_more_than_a_fair_share(pool: Pool, engines: dict[str, FakeEngine]) -> None:
    gate = asyncio.Event()
    for engine in engines.values():
        engine.always("a", gate=gate, gated_from=2)
    streams = [pool.generate(about(b"the same image")) for _ in range(30)]
    for stream in streams:
        await anext(stream)
    assert max(asked(engines)) <= 30 / 3 * spread.FAIR + 1
    for stream in streams:
        await stream.aclose()


async def test_what_a_busy_replica_refuses_another_answers(pool: Pool, engines: dict[str, FakeEngine]) -> None:
    """It stays in use all the while: busy is not gone."""
    engines["http://a"].always(error=Overloaded())
    for _ in range(30):
        assert (await ask(pool))[-1].finish_reason == "stop"
    assert len(engines["http://a"].history) > 1
    for engine in engines.values():
        engine.always(error=Overloaded())
    with pytest.raises(Overloaded):
        await ask(pool)
    assert all(replica.usable for replica in pool.replicas)


async def test_a_dead_replica_costs_nothing_when_another_can_answer(pool: Pool, engines: dict[str, FakeEngine]) -> None:
    engines["http://a"].always(error=EngineUnavailable())
    for _ in range(30):
        assert (await ask(pool))[-1].finish_reason == "stop"
    assert len(engines["http://a"].history) <= 1


async def test_what_has_begun_is_not_asked_again(pool: Pool, engines: dict[str, FakeEngine]) -> None:
    for engine in engines.values():
        engine.always("half", error=EngineUnavailable())
    with pytest.raises(EngineUnavailable):
        await ask(pool)
    assert sum(asked(engines)) == 1


@pytest.mark.parametrize("error", [InvalidRequest(), GenerationFailed()])
async def test_only_engines_that_are_away_have_others_asked(
    pool: Pool, engines: dict[str, FakeEngine], error: ServingError
) -> None:
    for engine in engines.values():
        engine.always(error=error)
    with pytest.raises(type(error)):
        await ask(pool)
    assert sum(asked(engines)) == 1


async def test_a_request_that_kills_engines_does_not_meet_them_all() -> None:
    engines = {f"http://{number}": FakeEngine() for number in range(MAX_TRIES + 2)}
    for engine in engines.values():
        engine.always(error=EngineUnavailable())
    pool = Pool(engines, engines.__getitem__)
    await pool.start()
    with pytest.raises(EngineUnavailable):
        await ask(pool)
    assert sum(asked(engines)) == MAX_TRIES
    await pool.aclose()


async def test_nobody_left_is_told_at_once(pool: Pool, engines: dict[str, FakeEngine]) -> None:
    for engine in engines.values():
        engine.always(error=EngineUnavailable())
    for _ in range(2):
        with pytest.raises(EngineUnavailable):
            await ask(pool)
    assert asked(engines) == [1, 1, 1]
    assert not await pool.ready()


async def test_replicas_that_are_not_ready_are_left_out_unless_none_is(
    pool: Pool, engines: dict[str, FakeEngine]
) -> None:
    for url in ("http://a", "http://b"):
        engines[url].is_ready = False
    for replica in pool.replicas:
        await replica.probe()
    assert await pool.ready()
    for _ in range(5):
        await ask(pool)
    assert asked(engines) == [0, 0, 5]
    engines["http://c"].is_ready = False
    await pool.replicas[2].probe()
    assert not await pool.ready()
    assert await ask(pool)


async def test_a_replica_that_is_back_is_tried_by_one_request(
    pool: Pool, engines: dict[str, FakeEngine], drained: set[str]
) -> None:
    engine, replica = engines["http://a"], pool.replicas[0]
    drained |= {"http://b", "http://c"}
    await pool.heed()
    engine.enqueue(error=EngineUnavailable())
    with pytest.raises(EngineUnavailable):
        await ask(pool)
    engine.is_ready = False
    await replica.probe()
    engine.is_ready = True
    await replica.probe()
    gate = asyncio.Event()
    engine.always("a", gate=gate, gated_from=1)
    trial = asyncio.create_task(ask(pool))
    await until(lambda: engine.running == 1)
    with pytest.raises(EngineUnavailable):
        await ask(pool)
    gate.set()
    assert await trial
    assert await ask(pool)


async def test_answers_of_a_machine_that_went_silent_are_given_up_and_asked_elsewhere(
    pool: Pool, engines: dict[str, FakeEngine], drained: set[str]
) -> None:
    drained |= {"http://b", "http://c"}
    await pool.heed()
    engines["http://a"].always("never", gate=asyncio.Event(), gated_from=1)
    waiting = asyncio.create_task(ask(pool))
    await until(lambda: engines["http://a"].running == 1)
    drained.remove("http://b")
    await pool.heed()
    engines["http://a"].is_ready = False
    for _ in range(LOST_AFTER):
        await pool.replicas[0].probe()
    assert [chunk.text for chunk in await waiting] == ["ok", ""]
    assert len(engines["http://b"].history) == 1
    assert engines["http://a"].running == 0


async def test_who_leaves_leaves_nothing_behind(pool: Pool, engines: dict[str, FakeEngine]) -> None:
    for engine in engines.values():
        engine.always("never", gate=asyncio.Event(), gated_from=1)
    task = asyncio.create_task(ask(pool))
    await until(lambda: sum(engine.running for engine in engines.values()) == 1)
    task.cancel()
    await asyncio.wait([task])
    assert sum(engine.running for engine in engines.values()) == 0
    assert {(replica.weight, replica.outstanding, replica.usable) for replica in pool.replicas} == {(0, 0, True)}


async def test_a_drained_replica_ends_what_it_has_begun(
    pool: Pool, engines: dict[str, FakeEngine], drained: set[str]
) -> None:
    gate = asyncio.Event()
    drained |= {"http://b", "http://c", "http://nobody"}
    await pool.heed()
    engines["http://a"].always("a", gate=gate, gated_from=2)
    async with aclosing(pool.generate(QUESTION)) as chunks:
        await anext(chunks)
        drained.add("http://a")
        await pool.heed()
        with pytest.raises(EngineUnavailable):
            await ask(pool)
        gate.set()
        assert [chunk.finish_reason async for chunk in chunks] == ["stop"]
    await pool.replicas[0].drained()
    drained.clear()
    await pool.heed()
    assert await ask(pool)


async def test_names_are_looked_up_again_and_again() -> None:
    engines: dict[str, FakeEngine] = {}
    answers = [["10.0.0.1", "10.0.0.2"], ["10.0.0.2", "fd00::3"]]
    looked = asyncio.Event()

    async def resolve(host: str, port: int) -> list[str]:
        assert (host, port) == ("engines.local", 8001)
        if not answers:
            looked.set()
            raise OSError("no answer")
        return answers.pop(0)

    def connect(url: str) -> FakeEngine:
        return engines.setdefault(url, FakeEngine())

    pool = Pool(["dns+http://engines.local:8001"], connect, resolve=resolve, resolve_every=0.001)
    await pool.start()
    await asyncio.wait_for(looked.wait(), 20)
    assert {replica.url for replica in pool.replicas} == {"http://10.0.0.2:8001", "http://[fd00::3]:8001"}
    assert not engines["http://10.0.0.1:8001"].is_ready, "what is gone from the name is closed"
    assert await ask(pool)
    await pool.aclose()


async def test_the_machines_own_name_is_found() -> None:
    assert "http://127.0.0.1:80/v1" in await discovery.expand("dns+http://localhost/v1")
    assert await discovery.expand("http://host:1") == ["http://host:1"]
