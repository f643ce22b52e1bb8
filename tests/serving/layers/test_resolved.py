from __future__ import annotations

from contextlib import aclosing

import pytest

from serving.errors import InvalidImage, InvalidRequest
from serving.generation import Caller, Generation, Image, Message, Part, Text
from serving.layers.resolved import Resolved
from serving.media.images import Limits
from tests.fakes import FakeEngine
from tests.serving.wire import data_uri, picture


def question(*references: str) -> Generation:
    parts: tuple[Part, ...] = (Text("before"), *(Image(reference) for reference in references), Text("after"))
    return Generation("r", Caller("k", "test"), "m", (Message("user", parts),))


async def ask(layer: Resolved, generation: Generation) -> None:
    async with aclosing(layer.generate(generation)) as chunks:
        async for _ in chunks:
            pass


async def test_the_engine_gets_checked_bytes_in_order() -> None:
    engine = FakeEngine()
    first, second = picture("PNG"), picture("JPEG", (100, 50))
    await ask(Resolved(engine, Limits()), question(data_uri(first), data_uri(second)))
    (asked,) = engine.history
    assert [image.content and image.content.data for image in asked.images] == [first, second]
    assert [type(part) for part in asked.messages[0].parts] == [Text, Image, Image, Text]


async def test_a_bad_image_never_reaches_the_engine() -> None:
    engine = FakeEngine()
    with pytest.raises(InvalidImage):
        await ask(Resolved(engine, Limits()), question(data_uri(picture()), data_uri(b"text")))
    assert engine.history == []


async def test_the_count_is_limited() -> None:
    with pytest.raises(InvalidRequest, match="images per request : 1, got 2"):
        await ask(Resolved(FakeEngine(), Limits(count=1)), question("data:x", "data:y"))
