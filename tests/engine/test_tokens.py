"""What the server says an image or a video costs is what the real engine counts."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing

import PIL.Image
import pytest

from serving.engine.plan import DEMO_MODEL
from serving.engine.vllm import VLLM
from serving.generation import Caller, Generation, Image, Message, Pixels, Sampling, Text, Usage, Video
from serving.media.images import Limits
from serving.media.policy import PixelPolicy, processor_of
from serving.media.service import Media
from serving.media.tokens import Bounds
from tests.serving.media.errands import resolved
from tests.serving.media.filming import film
from tests.serving.wire import data_uri, picture

DRAWS = [random.Random(seed) for seed in range(24)]
SIZES = [
    *((10, 10), (10, 2000), (2000, 10), (15, 3000), (31, 33), (32, 32), (47, 48), (48, 47), (16, 16), (4000, 20)),
    *((256, 256), (272, 272), (271, 273), (1024, 72), (72, 1024), (640, 480), (1280, 720), (1241, 1754)),
    *((round(10 ** draw.uniform(1.3, 3.2)), round(10 ** draw.uniform(1.3, 3.2))) for draw in DRAWS),
]
NARROW = PixelPolicy(image=Bounds(4_096, 52_000))
"""Other bounds than the engine's, so that the server resizes."""


@pytest.fixture
async def vllm(engine_url: str, engine_key: str) -> AsyncGenerator[VLLM, None]:
    vllm = VLLM(engine_url, key=engine_key)
    await vllm.start()
    yield vllm
    await vllm.aclose()


def media(policy: PixelPolicy | None = None) -> Media:
    processor = processor_of(DEMO_MODEL)
    return Media(Limits(), policy=policy, processor=lambda: processor, workers=1)


async def counted(vllm: VLLM, *parts: Image | Video | Text) -> Usage:
    question = Generation(
        "r", Caller("k", "test"), "m", (Message("user", parts),), Sampling(temperature=0, max_tokens=1)
    )
    usage = Usage()
    async with aclosing(vllm.generate(question)) as chunks:
        async for chunk in chunks:
            usage = chunk.usage
    return usage


async def predicted_and_counted(vllm: VLLM, service: Media, images: list[Image]) -> list[tuple[int | None, int | None]]:
    places = asyncio.Semaphore(6)

    async def one(image: Image) -> tuple[int | None, int | None]:
        async with places:
            part = await resolved(service, image)
            assert isinstance(part, Image)
            assert part.content is not None
            return part.content.tokens, (await counted(vllm, part)).image_tokens

    try:
        return list(await asyncio.gather(*map(one, images)))
    finally:
        await service.aclose()


def turned(size: tuple[int, int], orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, "white").save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


async def test_images_of_any_size_cost_what_was_predicted(vllm: VLLM) -> None:
    images = [Image(data_uri(picture("JPEG", size), "image/jpeg")) for size in SIZES]
    pairs = await predicted_and_counted(vllm, media(), images)
    assert len(pairs) >= 40
    assert [pair for pair in pairs if pair[0] != pair[1]] == []


async def test_images_that_the_server_resizes_cost_what_was_predicted(vllm: VLLM) -> None:
    sizes = [(800, 600), (500, 900), (1000, 120), (64, 64)]
    images = [Image(data_uri(picture("PNG", size))) for size in sizes]
    images += [Image(data_uri(picture("TIFF", (400, 300)))), Image(images[0].reference, pixels=Pixels(most=65_536))]
    pairs = await predicted_and_counted(vllm, media(NARROW), images)
    assert [pair for pair in pairs if pair[0] != pair[1]] == []


async def test_images_that_lie_on_their_side_cost_what_was_predicted(vllm: VLLM) -> None:
    images = [Image(data_uri(turned((300, 190), way), "image/jpeg")) for way in (1, 3, 6, 8)]
    pairs = await predicted_and_counted(vllm, media(), images)
    assert [pair for pair in pairs if pair[0] != pair[1]] == []


@pytest.mark.parametrize("seconds", [2, 5, 9])
async def test_a_video_is_read_and_costs_what_was_predicted(vllm: VLLM, seconds: float) -> None:
    """Around each pair of frames the engine writes a time and two tokens, which are text."""
    service = media()
    video = await resolved(service, Video(data_uri(film(seconds), "video/mp4")))
    await service.aclose()
    assert isinstance(video, Video)
    assert video.content is not None
    assert video.content.tokens is not None
    pairs = len(video.content.frames) // 2
    usage, text = await counted(vllm, video, Text("?")), await counted(vllm, Text("?"))
    assert usage.video_tokens == video.content.tokens
    written = usage.input_tokens - text.input_tokens - video.content.tokens
    assert 2 * pairs <= written <= 20 * pairs
    assert usage.output_tokens == 1


async def test_two_videos_and_an_image(vllm: VLLM) -> None:
    service = media()
    parts = [
        await resolved(service, Video((data_uri(picture()),) * 5, fps=1)),
        await resolved(service, Image(data_uri(picture()))),
        await resolved(service, Video(data_uri(film(3), "video/mp4"))),
    ]
    await service.aclose()
    tokens = [part.content.tokens for part in parts if not isinstance(part, Text) and part.content is not None]
    usage = await counted(vllm, *parts, Text("?"))
    assert [usage.video_tokens, usage.image_tokens] == [(tokens[0] or 0) + (tokens[2] or 0), tokens[1]]
