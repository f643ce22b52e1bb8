from __future__ import annotations

import asyncio
import io
import os
import signal
import struct
from collections.abc import AsyncGenerator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import PIL.Image
import pytest
import pytest_asyncio

from serving.errors import InvalidImage, Overloaded
from serving.generation import Image, ImageContent, Pixels
from serving.media.images import Limits
from serving.media.policy import PixelPolicy, Processor
from serving.media.pool import Workers
from serving.media.service import Media
from serving.media.tokens import Bounds, image_tokens
from serving.media.work import Check, Convert, Failure, Look, Picture
from tests.serving.media.errands import resolved
from tests.serving.wire import data_uri, picture

pytestmark = [pytest.mark.ring3, pytest.mark.asyncio(loop_scope="module")]
"""One set of decoding processes for all: each takes as long to start as the rest of a test."""
POLICY = PixelPolicy(image=Bounds(4_096, 65_536), image_most=262_144)
ROOMY = Processor(image=Bounds(4_096, 16_777_216))
LIMITS = Limits()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def media() -> AsyncGenerator[Media, None]:
    media = Media(LIMITS, policy=POLICY, processor=lambda: ROOMY, workers=1)
    yield media
    await media.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers() -> AsyncGenerator[Workers, None]:
    workers = Workers(1)
    yield workers
    await workers.aclose()


async def content_of(media: Media, data: bytes, pixels: Pixels = Pixels()) -> ImageContent:  # noqa: B008
    found = await resolved(media, Image(data_uri(data), pixels=pixels))
    assert isinstance(found, Image)
    assert found.content is not None
    assert found.reference == data_uri(found.content.data, f"image/{found.content.format.lower()}")
    return found.content


def turned(form: str, size: tuple[int, int], orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, "red").save(buffer, form, exif=exif)
    return buffer.getvalue()


def opened(content: ImageContent) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(content.data))


async def test_an_image_that_the_engine_would_see_as_the_policy_wants_is_not_touched(media: Media) -> None:
    data = picture("JPEG", (320, 200))
    content = await content_of(media, data)
    assert content.data is not None
    assert (content.data, content.seen) == (data, (320, 192))


@pytest.mark.parametrize(
    ("form", "becomes"), [("PNG", "PNG"), ("JPEG", "JPEG"), ("WEBP", "JPEG"), ("BMP", "PNG"), ("GIF", "PNG")]
)
async def test_a_larger_one_is_brought_to_the_grid(media: Media, form: str, becomes: str) -> None:
    content = await content_of(media, picture(form, (800, 600)))
    assert (content.format, opened(content).format) == (becomes, becomes)
    assert (content.width, content.height) == opened(content).size == content.seen == (288, 192)
    assert content.tokens == 9 * 6 + 2


async def test_a_request_may_ask_for_another_size(media: Media) -> None:
    data = picture("PNG", (800, 600))
    assert (await content_of(media, data, Pixels(most=131_072))).seen == (416, 288)
    assert (await content_of(media, data, Pixels(high_resolution=True))).seen == (576, 416)
    assert (await content_of(media, picture("PNG", (64, 64)), Pixels(least=262_144))).seen == (512, 512)


async def test_the_bounds_of_the_engine_go_before_those_of_the_policy() -> None:
    small = Processor(image=Bounds(49_152, 73_728))
    media = Media(LIMITS, processor=lambda: small)
    data = picture("PNG", (1000, 1000))
    content = await content_of(media, data)
    assert (content.data, content.seen) == (data, (256, 256))
    assert content.tokens == image_tokens((256, 256))
    await media.aclose()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
async def test_an_image_is_counted_as_it_is_turned(media: Media, form: str, orientation: int) -> None:
    small = turned(form, (320, 96), orientation)
    content = await content_of(media, small)
    upright = (96, 320) if orientation in (6, 8) else (320, 96)
    assert (content.data, content.width, content.height, content.seen) == (small, *upright, upright)


@pytest.mark.parametrize("orientation", [1, 6])
async def test_a_photo_of_several_pictures_is_counted_as_it_is_turned(media: Media, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    picture, buffer = PIL.Image.new("RGB", (320, 96), "red"), io.BytesIO()
    picture.save(buffer, "MPO", save_all=True, append_images=[picture], exif=exif)
    content = await content_of(media, buffer.getvalue())
    assert content.seen == ((96, 320) if orientation == 6 else (320, 96))


async def test_a_tiff_on_its_side_is_turned(media: Media) -> None:
    content = await content_of(media, turned("TIFF", (320, 96), 6))
    assert content.seen == opened(content).size == (96, 320)


async def test_an_image_is_turned_where_it_is_resized(media: Media) -> None:
    content = await content_of(media, turned("JPEG", (800, 400), 6))
    assert content.seen == opened(content).size == (160, 352)
    assert 0x0112 not in opened(content).getexif()


async def test_a_tiff_never_reaches_the_engine(media: Media) -> None:
    content = await content_of(media, picture("TIFF", (256, 128)))
    assert (content.format, content.seen, opened(content).size) == ("PNG", (256, 128), (256, 128))


async def test_a_broken_tiff_is_refused(media: Media) -> None:
    with pytest.raises(InvalidImage, match="the TIFF does not decode"):
        await content_of(media, picture("TIFF", (256, 128))[:30_000])


async def test_what_is_clear_lies_on_white(media: Media) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("RGBA", (600, 600), (255, 0, 0, 0)).save(buffer, "PNG")
    pixel = opened(await content_of(media, buffer.getvalue())).getpixel((5, 5))
    assert pixel == (255, 255, 255)


async def test_heic_is_read_or_named_as_what_is_missing(media: Media) -> None:
    heic = struct.pack(">I4s4sI4s", 20, b"ftyp", b"heic", 0, b"mif1") + bytes(100)
    missing = find_spec("pillow_heif") is None
    said = "library pillow-heif, which this server does not have; send the image as JPEG or PNG" if missing else ".+"
    with pytest.raises(InvalidImage, match=f"the HEIC does not decode: .*{said}"):
        await content_of(media, heic)


async def test_a_worker_answers_again_and_again(workers: Workers) -> None:
    for form in ("PNG", "JPEG"):
        assert await workers.do(Look(picture(form), form), seconds=60) == Picture(b"", 64, 48)
    assert isinstance(await workers.do(Check(b"nothing", "PNG"), seconds=60), Failure)
    converted = await workers.do(Convert(picture(), "PNG", (32, 32), "JPEG"), seconds=60)
    assert isinstance(converted, Picture)
    assert (converted.width, converted.height) == (32, 32)


async def test_a_job_that_takes_too_long_is_ended(workers: Workers) -> None:
    large = Convert(picture("PNG", (2000, 2000)), "PNG", (3000, 3000), "PNG")
    assert await workers.do(large, seconds=0.01) == Failure("decoding it takes more than 0 s")
    assert isinstance(await workers.do(Look(picture(), "PNG"), seconds=60), Picture)


async def test_a_client_that_leaves_ends_the_job(workers: Workers) -> None:
    leaving = asyncio.create_task(workers.do(Look(picture(), "PNG"), seconds=60))
    await asyncio.sleep(0)
    leaving.cancel()
    assert isinstance(await workers.do(Look(picture(), "PNG"), seconds=60), Picture)
    assert leaving.cancelled()


def worker_pids() -> list[int]:
    """The decoding processes among the children of this one."""
    children = [each.read_text().split() for each in Path(f"/proc/{os.getpid()}/task").glob("*/children")]
    return [
        int(pid)
        for pid in chain.from_iterable(children)
        if b"serving.media.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


async def test_a_decoder_that_dies_costs_its_own_job_only_and_all_end_with_their_pool() -> None:
    others = set(worker_pids())
    workers = Workers(1)
    await workers.do(Look(picture(), "PNG"), seconds=60)
    (pid,) = set(worker_pids()) - others
    os.kill(pid, signal.SIGKILL)
    assert await workers.do(Look(picture(), "PNG"), seconds=60) == Failure("the decoder broke on it")
    assert isinstance(await workers.do(Look(picture(), "PNG"), seconds=60), Picture)
    await workers.aclose()
    assert set(worker_pids()) == others


async def test_one_key_with_many_images_does_not_keep_the_decoders_from_another() -> None:
    workers = Workers(1, max_waiting=20)
    order: list[str] = []

    async def look(holder: str) -> None:
        await workers.do(Look(picture(), "PNG"), seconds=60, holder=holder)
        order.append(holder)

    swarm = [asyncio.create_task(look("swarm")) for _ in range(20)]
    await asyncio.sleep(0)
    other = asyncio.create_task(look("other"))
    await asyncio.sleep(0)
    await asyncio.gather(*swarm, other)
    assert order.index("other") <= 2
    await workers.aclose()


async def test_a_key_has_so_many_images_wait_for_a_decoder() -> None:
    workers = Workers(1, max_waiting=1)
    running = [asyncio.create_task(workers.do(Look(picture(), "PNG"), seconds=60, holder="a")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await workers.do(Look(picture(), "PNG"), seconds=60, holder="a")
    assert isinstance(await workers.do(Look(picture(), "PNG"), seconds=60, holder="b"), Picture)
    await asyncio.gather(*running)
    await workers.aclose()
