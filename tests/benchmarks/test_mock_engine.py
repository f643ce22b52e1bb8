from __future__ import annotations

import asyncio

import aiohttp
import pytest

from benchmarks.mock_engine import Knobs
from benchmarks.processes import state
from tests.benchmarks.conftest import Mock

BODY = {"model": "mock", "messages": []}


async def post(url: str, **body: object) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", json=BODY | body) as reply,
    ):
        return reply.status, await reply.text()


async def put(url: str, body: object) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.put(f"{url}/mock", json=body) as reply:
        return reply.status, await reply.text()


async def test_a_stream_has_the_pieces_and_the_usage_that_were_set(mock: Mock) -> None:
    async with mock(Knobs(pieces=(3,))) as (url, _):
        status, text = await post(url, stream=True)

    assert status == 200
    assert text.count('"content":"token "') == 3
    assert '"completion_tokens":3' in text
    assert text.endswith("data: [DONE]\n\n")


async def test_lengths_are_taken_in_turn(mock: Mock) -> None:
    async with mock(Knobs(pieces=(1, 4))) as (url, _):
        answers = [(await post(url))[1] for _ in range(3)]

    assert [answer.count("token ") for answer in answers] == [1, 4, 1]


async def test_slots_are_answers_at_a_time(mock: Mock) -> None:
    async with mock(Knobs(ttft=(0.1,), pieces=(1,), slots=1)) as (url, _):
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(post(url), post(url), post(url))

    assert loop.time() - began >= 0.3


async def test_the_share_of_refusals_is_seeded(mock: Mock) -> None:
    seen = []
    for _ in range(2):
        async with mock(Knobs(error={"500": 0.5}, seed=3)) as (url, _engine):
            seen.append([(await post(url))[0] for _ in range(20)])

    assert seen[0] == seen[1]
    assert set(seen[0]) == {200, 500}


async def test_knobs_turn_while_it_runs(mock: Mock) -> None:
    async with mock(Knobs(pieces=(1,))) as (url, engine):
        status, _ = await put(url, {"pieces": [2], "gap": 0.01})

        assert status == 200
        assert engine.knobs == Knobs(pieces=(2,), gap=0.01)


@pytest.mark.parametrize("body", [{"speed": 1}, [], {"stall": "long"}])
async def test_a_knob_that_is_none_changes_nothing(mock: Mock, body: object) -> None:
    async with mock(Knobs(pieces=(1,))) as (url, engine):
        status, _ = await put(url, body)

        assert status == 400
        assert engine.knobs == Knobs(pieces=(1,))


async def test_a_client_that_leaves_frees_its_slot(mock: Mock) -> None:
    async with mock(Knobs(ttft=(0.0,), gap=60.0, pieces=(2,), slots=1)) as (url, engine):
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/chat/completions", json=BODY | {"stream": True}) as reply,
        ):
            await reply.content.readany()
        engine.knobs = Knobs(pieces=(1,), slots=1)
        async with asyncio.timeout(20):
            status, _ = await post(url)

    assert status == 200


async def test_a_client_that_leaves_is_told(mock: Mock) -> None:
    async with mock(Knobs(gap=5.0, pieces=(2,))) as (url, _), aiohttp.ClientSession() as session:
        async with session.post(f"{url}/v1/chat/completions", json=BODY | {"stream": True}) as reply:
            await reply.content.readany()
            assert await state(url) == {"served": 1, "open": 1, "left": 0}
        async with asyncio.timeout(3):
            while (await state(url))["open"]:
                pass

        assert await state(url) == {"served": 1, "open": 0, "left": 1}
