from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from serving.engine.connection import connected
from serving.engine.pool import Pool
from serving.engine.reusing import Reusing
from serving.engine.vllm import VLLM
from serving.errors import EngineUnavailable
from serving.generation import Caller, Chunk, Generation, Message, Text
from serving.settings import Settings
from tests.serving.conftest import listening
from tests.serving.engine.fake_vllm import DONE, FakeVLLM, event, final

QUESTION = Generation("r", Caller("k", "test"), "m", (Message("user", (Text("hi"),)),))


def test_what_the_settings_ask_for(tmp_path: Path) -> None:
    one = Settings(data=tmp_path, engine_urls=("http://a",))
    assert isinstance(connected(one), VLLM)
    assert isinstance(connected(one.model_copy(update={"reuse_images": True})), Reusing)
    assert isinstance(connected(Settings(data=tmp_path, engine_urls=("http://a", "http://b"))), Pool)
    assert isinstance(connected(Settings(data=tmp_path, engine_urls=("dns+http://engines:8000",))), Pool)


@pytest.mark.ring3
async def test_a_server_that_goes_away_is_not_noticed(tmp_path: Path) -> None:
    """Over real connections: two servers, one of them gone after the first requests, and back in the end."""
    fakes = [FakeVLLM(), FakeVLLM()]
    for fake in fakes:
        fake.answers += [[event("a", "stop"), final(), DONE] for _ in range(40)]

    async def ask() -> list[Chunk]:
        async with aclosing(pool.generate(QUESTION)) as chunks:
            return [chunk async for chunk in chunks]

    async with listening(fakes[0].app) as stays:
        async with listening(fakes[1].app) as leaves:
            pool = connected(Settings(data=tmp_path, engine_urls=(stays, leaves)))
            await pool.start()
            assert await pool.ready()
            await asyncio.gather(*(ask() for _ in range(6)))
            assert [len(fake.asked) for fake in fakes] == [3, 3]
        answers = await asyncio.gather(*(ask() for _ in range(20)))
        assert {chunks[-1].finish_reason for chunks in answers} == {"stop"}
        assert await pool.ready()
    with pytest.raises(EngineUnavailable):
        await ask()
    await pool.aclose()
