from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from serving.engine.reusing import MAX_MISSES, Reusing
from serving.engine.vllm import VLLM
from serving.errors import ImageForgotten
from serving.generation import Caller, Generation, Image, ImageContent, Message, Part, Text
from tests.fakes import FakeEngine
from tests.serving.conftest import listening
from tests.serving.engine.fake_vllm import DONE, FakeVLLM, event, final, refusal

QUESTION = Generation("r", Caller("k", "test"), "m", (Message("user", (Text("hi"),)),))
FORGOTTEN = "Cache miss for image at index 0 but data is not provided."


def image(data: bytes, tokens: int = 6) -> Image:
    return Image(f"data:image/png;base64,{data.hex()}", ImageContent(data, "PNG", 64, 64, tokens=tokens))


def about(*images: Image) -> Generation:
    parts: tuple[Part, ...] = (*images, Text("hi"))
    return replace(QUESTION, messages=(Message("user", parts),))


@dataclass
class Wire:
    """A vLLM that is asked over a real connection, and what it was sent."""

    engine: Reusing
    fake: FakeVLLM = field(default_factory=FakeVLLM)

    async def ask(self, generation: Generation) -> str:
        async with aclosing(self.engine.generate(generation)) as chunks:
            return "".join([chunk.text async for chunk in chunks])

    def answers(self, *refused: bool) -> None:
        for each in refused:
            self.fake.answers.append((400, refusal(FORGOTTEN)) if each else [event("a", "stop"), final(), DONE])

    @property
    def sent(self) -> list[list[dict[str, Any]]]:
        return [
            [part for part in request["messages"][0]["content"] if part["type"] == "image_url"]
            for request in self.fake.asked
        ]


@pytest.fixture
async def wire(ring3: None) -> AsyncGenerator[Wire, None]:
    fake = FakeVLLM()
    async with listening(fake.app) as url:
        engine = Reusing(VLLM(url))
        await engine.start()
        yield Wire(engine, fake)
        await engine.aclose()


async def test_pixels_are_sent_once(wire: Wire) -> None:
    wire.answers(False, False)
    first, second = image(b"first"), image(b"second")
    assert await wire.ask(about(first)) == "a"
    assert await wire.ask(about(first, second)) == "a"
    assert first.content is not None
    name = first.content.digest
    assert wire.sent[0] == [{"type": "image_url", "image_url": {"url": first.reference}, "uuid": name}]
    assert wire.sent[1][0] == {"type": "image_url", "image_url": None, "uuid": name}
    assert wire.sent[1][1]["image_url"] == {"url": second.reference}


async def test_a_forgotten_image_follows(wire: Wire) -> None:
    wire.answers(False, True, False, False)
    for _ in range(3):
        assert await wire.ask(about(image(b"first"))) == "a"
    assert [bool(sent[0]["image_url"]) for sent in wire.sent] == [True, False, True, False]


async def test_an_engine_that_keeps_nothing_is_no_longer_asked(wire: Wire) -> None:
    question = about(image(b"first"))
    for _ in range(MAX_MISSES):
        wire.answers(False, True)
    wire.answers(False, False, False)
    for _ in range(MAX_MISSES + 3):
        await wire.ask(question)
    assert not wire.fake.answers
    assert "uuid" not in wire.sent[-1][0]


async def test_text_alone_is_passed_on(wire: Wire) -> None:
    wire.answers(False)
    assert await wire.ask(QUESTION) == "a"


async def test_what_was_sent_long_ago_is_sent_again() -> None:
    engine = FakeEngine()
    layer = Reusing(engine)
    large = 40_000_000 // 1024
    for data in (b"1", b"2", b"3", b"1"):
        async with aclosing(layer.generate(about(image(data, large)))) as chunks:
            assert len([chunk async for chunk in chunks]) == 2
    assert all(asked.images[0].reference for asked in engine.history)


async def test_an_engine_that_forgets_what_it_was_sent_is_an_error() -> None:
    engine = FakeEngine()
    engine.always(error=ImageForgotten())
    with pytest.raises(ImageForgotten):
        async with aclosing(Reusing(engine).generate(about(image(b"1")))) as chunks:
            await anext(chunks)
