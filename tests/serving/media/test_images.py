from __future__ import annotations

import asyncio
import struct
import time
import zlib
from contextlib import suppress

import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidImage, InvalidRequest
from serving.generation import Image
from serving.media import images
from serving.media.images import Limits
from serving.media.service import Media
from tests.serving.media.errands import resolved
from tests.serving.wire import data_uri, picture

LIMITS = Limits(uri_chars=3_000_000)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, payload: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return images.PNG_SIGNATURE + header + chunk(b"IDAT", payload) + chunk(b"IEND", b"")


async def resolve(data: bytes, media_type: str = "image/png", limits: Limits = LIMITS) -> Image:
    return await resolve_reference(data_uri(data, media_type), limits)


async def resolve_reference(reference: str, limits: Limits = LIMITS) -> Image:
    media = Media(limits)
    try:
        found = await resolved(media, Image(reference))
    finally:
        await media.aclose()
    assert isinstance(found, Image)
    return found


@pytest.mark.ring3
@pytest.mark.parametrize("form", [form for form in images.FORMATS if form != "TIFF"])
async def test_every_format_is_known_by_its_bytes(form: str) -> None:
    data = picture(form, (64, 48))
    content = (await resolve(data, "image/anything")).content
    assert content is not None
    assert (content.format, content.width, content.height, content.data) == (form, 64, 48, data)


async def test_a_plain_data_uri_is_passed_on_as_it_is() -> None:
    reference = data_uri(picture())
    assert (await resolve_reference(reference)).reference is reference


async def test_another_header_or_wrapped_base64_is_made_plain() -> None:
    plain = data_uri(picture())
    payload = plain.partition(",")[2]
    wrapped = "data:;charset=x;base64," + "\n".join(payload[at : at + 76] for at in range(0, len(payload), 76))
    assert (await resolve_reference(wrapped)).reference == plain


@pytest.mark.ring3
async def test_the_digest_is_of_the_bytes() -> None:
    content = (await resolve(b"GIF89a" + picture("GIF")[6:])).content
    assert content is not None
    assert len(content.digest) == 64


@pytest.mark.parametrize("side", [(10, 10), (200, 10), (10, 2000)])
async def test_sizes_at_the_limit_pass(side: tuple[int, int]) -> None:
    await resolve(picture("PNG", side))


@pytest.mark.ring3
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "The file format is illegal and cannot be opened. [the image has 0 bytes]"),
        (b"year,revenue\n2023,12\n", "The file format is illegal and cannot be opened. [21 bytes that are none of PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "The file format is illegal and cannot be opened. ["),
        (images.PNG_SIGNATURE, "The file format is illegal and cannot be opened. ["),
        (picture()[:-9], "The file format is illegal and cannot be opened. [the PNG ends before its IEND chunk]"),
        (picture()[:-20], "The file format is illegal and cannot be opened. [the PNG ends before its IEND chunk]"),
        (picture("JPEG")[:-20], "The file format is illegal and cannot be opened. [the JPEG ends before its end-of"),
        (picture("JPEG")[:100], "The file format is illegal and cannot be opened. [the JPEG ends before its frame"),
        (picture("WEBP")[:-20], "The file format is illegal and cannot be opened. ["),
        (picture("BMP")[:-20], "The file format is illegal and cannot be opened. [the BMP does not decode"),
        (picture("TIFF")[:200], "The file format is illegal and cannot be opened. ["),
        (png(9, 9), "[height:9 or width:9 must be larger than 10]"),
        (png(50_000, 1), "[height:1 or width:50000 must be larger than 10]"),
        (png(3000, 10), "[absolute aspect ratio must be smaller than 200, got 300.0]"),
        (
            png(20_000, 20_000, bytes(1_000_000)),
            "[height:20000 times width:20000 is 400000000 pixels, must be at most 89478485]",
        ),
    ],
)
async def test_what_is_no_usable_image_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidImage) as raised:
        await resolve(data)
    assert message in raised.value.message


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "An image or a video is given as"),
        ("chart.png", "An image or a video is given as"),
        ("file:///etc/passwd", "An image or a video is given as"),
        ("data:image/png,abc", "An image or a video is given as"),
        ("data:image/png;base64", "An image or a video is given as"),
        ("data:image/png;base64,not base64!", "is not base64"),
        ("data:image/png;base64,图片", "is not base64"),
        ("data:image/png;base64,iVBO\x0bRw0K", "is not base64"),
        ("data:image/png;base64,iVBO\x1cRw0K", "is not base64"),
    ],
)
async def test_what_is_no_data_uri_is_refused(reference: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await resolve_reference(reference)
    assert raised.value.message.startswith("The provided URL does not appear to be valid. Ensure it is correctly form")
    assert message in raised.value.message


async def test_too_many_bytes_name_the_limit_and_the_length() -> None:
    uri = data_uri(bytes(1000))
    with pytest.raises(InvalidRequest, match=f"per data-uri item : 1024, got {len(uri)}"):
        await resolve_reference(uri, Limits(uri_chars=1024))


@pytest.mark.ring3
@pytest.mark.parametrize(
    "data",
    [
        images.PNG_SIGNATURE + chunk(b"tEXt", b"") * 200_000,
        png(64, 64)[:33] + chunk(b"tEXt", b"") * 200_000,
        images.JPEG_SIGNATURE + b"\xff" * 2_000_000,
        images.JPEG_SIGNATURE + b"\xe0\0\x02\xff" * 500_000,
        b"GIF89a" + struct.pack("<HHBBB", 64, 64, 0, 0, 0) + b"!\x01" + b"\x01a" * 1_000_000 + b"\0;",
    ],
    ids=["png-without-header", "png-of-chunks", "jpeg-of-fill", "jpeg-of-segments", "gif-of-blocks"],
)
async def test_a_file_made_of_a_million_parts_does_not_hold_the_loop(data: bytes) -> None:
    resolving = asyncio.create_task(resolve(data, limits=Limits()))
    longest = 0.0
    while not resolving.done():
        began = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - began)
    assert isinstance(resolving.exception(), InvalidImage)
    assert longest < 0.15  # seconds of this thread's own CPU time, so that a busy machine does not count


def tagged(count: int) -> bytes:
    """EXIF data of so many tags, each of which says that it is as long as all together."""
    tags = b"".join(struct.pack("<HHII", 1000 + number, 1, 12 * count, 0) for number in range(count))
    return b"II*\0" + struct.pack("<IH", 8, count) + tags + bytes(4)


@pytest.mark.ring3
@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize(
    "data",
    [
        picture() + bytes(6_000_000),
        picture()[:-12] + chunk(b"eXIf", tagged(60_000)) + picture()[-12:],
        b"II*\0" + struct.pack("<IH", 8, 60_000) + tagged(60_000)[10:],
    ],
    ids=["behind-a-png", "exif-of-tags", "tiff-of-tags"],
)
async def test_what_surrounds_a_picture_costs_the_server_no_cpu(data: bytes) -> None:
    began = time.process_time()
    with suppress(InvalidImage):
        await resolve(data, limits=Limits())
    assert time.process_time() - began < 0.25


@pytest.mark.ring3
@pytest.mark.parametrize("form", ["WEBP", "BMP", "GIF", "TIFF"])
async def test_a_size_beyond_the_limit_is_told_in_every_format(form: str) -> None:
    with pytest.raises(InvalidImage) as raised:
        await resolve(picture(form), limits=Limits(pixels=1000))
    assert "[height:48 times width:64 is 3072 pixels, must be at most 1000]" in raised.value.message


async def test_a_flipped_bit_is_found_by_the_checksum() -> None:
    damaged = bytearray(picture())
    damaged[60] ^= 1
    with pytest.raises(InvalidImage, match="the checksum of the PNG's IDAT chunk is wrong"):
        await resolve(bytes(damaged))


async def test_data_whose_sum_is_right_and_that_is_none() -> None:
    with pytest.raises(InvalidImage, match="the image data of the PNG cannot be unpacked"):
        await resolve(png(64, 64, b"not deflated"))


@pytest.mark.ring3
async def test_decoding_finds_what_the_structure_does_not_show() -> None:
    hollow = png(64, 64, zlib.compress(b"too little"))
    await resolve(hollow)
    with pytest.raises(InvalidImage, match="the PNG does not decode"):
        await resolve(hollow, limits=Limits(decode=True))


@pytest.mark.ring3
@pytest.mark.parametrize("form", images.FORMATS)
async def test_what_decodes_passes(form: str) -> None:
    await resolve(picture(form), limits=Limits(decode=True))


async def test_a_jpeg_with_a_thumbnail_inside_is_whole_only_with_its_own_end() -> None:
    whole = picture("JPEG")
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(whole) + 2) + whole
    nested = whole[:2] + thumbnail + whole[2:]
    await resolve(nested)
    with pytest.raises(InvalidImage, match="end-of-image"):
        await resolve(nested[:-2])


@given(st.data())
def test_cut_and_bent_files_are_probed_or_refused(data: st.DataObject) -> None:
    original = bytearray(picture(data.draw(st.sampled_from(images.FORMATS))))
    for at in data.draw(st.lists(st.integers(0, len(original) - 1), max_size=8)):
        original[at] = data.draw(st.integers(0, 255))
    cut = bytes(original[: data.draw(st.integers(0, len(original)))])
    try:
        content = images.probe(cut, LIMITS)
        form = content.format if content else images.other_format(cut)
    except InvalidImage:
        return
    assert content is None or content.width * content.height <= LIMITS.pixels
    assert form in (*images.FORMATS, "HEIC")


def test_the_limit_is_not_above_what_pillow_opens() -> None:
    assert PIL.Image.MAX_IMAGE_PIXELS is not None
    assert Limits().pixels <= PIL.Image.MAX_IMAGE_PIXELS
