"""What an engine is sent, so that how quick it is tells no key what another has asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from serving.access.keys import KeyStore
from serving.app import create_app
from serving.engine.reusing import Reusing
from serving.engine.vllm import VLLM
from serving.settings import Settings
from serving.storage import database
from tests.serving.conftest import PATH, listening
from tests.serving.engine.fake_vllm import DONE, FakeVLLM, event, final
from tests.serving.wire import chat, data_uri, picture, user

QUESTION = chat(user({"image": data_uri(picture())}, "What is this?"))


@pytest.fixture
async def other(settings: Settings, key: str) -> str:
    records = database.at(settings.data)
    secret = await KeyStore(records).create("other")
    await database.close(records)
    return secret


@pytest.fixture
async def fake(ring3: None) -> AsyncGenerator[tuple[FakeVLLM, Reusing], None]:
    fake = FakeVLLM(answers=[[event("a", "stop"), final(), DONE] for _ in range(3)])
    async with listening(fake.app) as url:
        yield fake, Reusing(VLLM(url))


async def sent(settings: Settings, engine: tuple[FakeVLLM, Reusing], *keys: str) -> list[tuple[Any, dict[str, Any]]]:
    """The salt and the image that the engine gets with each of the keys."""
    app = create_app(settings, engine[1])
    transport = httpx.ASGITransport(app)
    async with app.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for key in keys:
            answer = await client.post(PATH, json=QUESTION, headers={"authorization": f"Bearer {key}"})
            assert answer.status_code == 200
    return [(asked.get("cache_salt"), asked["messages"][0]["content"][0]) for asked in engine[0].asked]


async def test_each_key_has_its_own_part_of_the_engines_memory(
    settings: Settings, key: str, other: str, fake: tuple[FakeVLLM, Reusing]
) -> None:
    (salt, mine), (again, kept), (foreign, theirs) = await sent(settings, fake, key, key, other)
    assert salt == again
    assert salt != foreign
    assert salt
    assert foreign
    assert kept == mine | {"image_url": None}
    assert mine["uuid"] != theirs["uuid"]
    assert theirs["image_url"] == mine["image_url"]


async def test_where_answers_are_shared_the_engines_memory_is_too(
    settings: Settings, key: str, other: str, fake: tuple[FakeVLLM, Reusing]
) -> None:
    shared = settings.model_copy(update={"cache_shared": True})
    (salt, mine), (foreign, theirs) = await sent(shared, fake, key, other)
    assert salt is foreign is None
    assert theirs == mine | {"image_url": None}
