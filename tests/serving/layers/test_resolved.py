from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from serving.errors import InvalidImage, InvalidRequest, Overloaded
from serving.generation import Caller, Generation, Image, Message, Part, Text, Video
from serving.layers.resolved import Resolved
from serving.media.images import Limits
from serving.media.service import Media
from tests.fakes import FakeEngine
from tests.serving.wire import data_uri, picture

KEY = Caller("k", "test")


def question(*references: str, **options: object) -> Generation:
    parts: tuple[Part, ...] = (Text("before"), *(Image(reference) for reference in references), Text("after"))
    return replace(Generation("r", KEY, "m", (Message("user", parts),)), **options)  # type: ignore[arg-type]


async def ask(layer: Resolved, generation: Generation) -> None:
    async with aclosing(layer.generate(generation)) as chunks:
        async for _ in chunks:
            pass


class Shelf:
    """Uploads of one key."""

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.asked: list[tuple[str, str, tuple[int, int]]] = []

    async def read(self, reference: str, caller: Caller, limit: int, *, occurrence: tuple[int, int] = (0, 1)) -> bytes:
        self.asked.append((reference, caller.key_id, occurrence))
        return self.files[reference.removeprefix("oss://")]

    async def pieces(
        self, reference: str, caller: Caller, limit: int, *, occurrence: tuple[int, int] = (0, 1)
    ) -> AsyncGenerator[bytes, None]:
        yield await self.read(reference, caller, limit, occurrence=occurrence)


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def layer(engine: FakeEngine) -> AsyncGenerator[Resolved, None]:
    layer = Resolved(engine, Media(Limits(count=6, videos=1)))
    yield layer
    await layer.aclose()


async def test_the_engine_gets_checked_bytes_in_order(layer: Resolved, engine: FakeEngine) -> None:
    first, second = picture("PNG"), picture("JPEG", (100, 50))
    await ask(layer, question(data_uri(first), data_uri(second)))
    (asked,) = engine.history
    assert [image.content and image.content.data for image in asked.images] == [first, second]
    assert [type(part) for part in asked.messages[0].parts] == [Text, Image, Image, Text]


async def test_what_the_model_sees_and_what_it_costs_is_known(layer: Resolved, engine: FakeEngine) -> None:
    await ask(layer, question(data_uri(picture("PNG", (640, 480)))))
    content = engine.history[0].images[0].content
    assert content is not None
    assert (content.seen, content.tokens) == ((640, 480), 20 * 15 + 2)


async def test_a_bad_image_never_reaches_the_engine(layer: Resolved, engine: FakeEngine) -> None:
    with pytest.raises(InvalidImage):
        await ask(layer, question(data_uri(picture()), data_uri(b"text")))
    assert engine.history == []


async def test_the_counts_are_limited(layer: Resolved) -> None:
    with pytest.raises(InvalidRequest, match="images per request : 6, got 7"):
        await ask(layer, question(*["data:x"] * 7))
    message = Message("user", (Video("data:x"), Video("data:y")))
    with pytest.raises(InvalidRequest, match="videos per request : 1, got 2"):
        await ask(layer, replace(question(), messages=(message,)))


async def test_an_upload_is_looked_up_only_where_the_client_asks_for_it(engine: FakeEngine) -> None:
    shelf = Shelf(a=picture(), b=picture("JPEG"))
    layer = Resolved(engine, Media(Limits(), uploads=shelf))
    with pytest.raises(InvalidRequest, match="X-DashScope-OssResourceResolve: enable"):
        await ask(layer, question("oss://a"))
    assert shelf.asked == []
    await ask(layer, question("oss://a", "oss://b", data_uri(picture()), "oss://a", resolve_oss=True))
    assert shelf.asked == [("oss://a", "k", (0, 2)), ("oss://b", "k", (0, 1)), ("oss://a", "k", (1, 2))]
    references = [image.reference for image in engine.history[0].images]
    assert references == [data_uri(picture()), data_uri(picture("JPEG"), "image/jpeg"), *[data_uri(picture())] * 2]
    await layer.aclose()


async def test_memory_is_held_for_as_long_as_the_answer_takes(engine: FakeEngine) -> None:
    reference = data_uri(picture())
    layer = Resolved(engine, Media(Limits(), memory=3 * len(reference) + 1, patience=0.05))
    gate = asyncio.Event()
    engine.enqueue("a", "b", gate=gate)
    first = asyncio.create_task(ask(layer, question(reference)))
    await engine.began.wait()
    with pytest.raises(Overloaded):
        await ask(layer, question(reference))
    gate.set()
    await first
    await ask(layer, question(reference))
    assert len(engine.history) == 2


async def test_who_leaves_the_queue_for_memory_keeps_nothing(engine: FakeEngine) -> None:
    reference = data_uri(picture())
    media = Media(Limits(), memory=3 * len(reference) + 1)
    layer = Resolved(engine, media)
    gate = asyncio.Event()
    engine.enqueue("a", "b", gate=gate)
    first = asyncio.create_task(ask(layer, question(reference)))
    await engine.began.wait()
    waiting = [asyncio.create_task(ask(layer, question(reference))) for _ in range(3)]
    await asyncio.sleep(0)
    for each in waiting[:2]:
        each.cancel()
    gate.set()
    await asyncio.gather(first, waiting[2])
    assert media.budget.free == 3 * len(reference) + 1


async def test_a_question_larger_than_all_memory_is_answered_alone(engine: FakeEngine) -> None:
    layer = Resolved(engine, Media(Limits(), memory=10))
    await ask(layer, question(data_uri(picture())))
    assert len(engine.history) == 1
