from __future__ import annotations

import io
from collections.abc import AsyncGenerator
from pathlib import Path

import PIL.Image
import pytest
import pytest_asyncio

from serving.errors import InvalidRequest
from serving.generation import Pixels, Video, VideoContent
from serving.media.addresses import Guard
from serving.media.fetch import FetchRules
from serving.media.films import sample
from serving.media.images import Limits
from serving.media.service import Media
from serving.media.tokens import video_tokens
from tests.serving.media.errands import resolved
from tests.serving.media.filming import film
from tests.serving.media.sites import HOST, Names, site
from tests.serving.wire import data_uri, picture

pytestmark = pytest.mark.asyncio(loop_scope="module")
"""One set of decoding processes for all: each takes as long to start as the rest of a test."""
LIMITS = Limits(seconds=20)
MADE = [("mp4", "mpeg4"), ("mov", "mpeg4"), ("avi", "mpeg4"), ("matroska", "mpeg4"), ("flv", "flv1"), ("asf", "wmv2")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def media(ring3: None) -> AsyncGenerator[Media, None]:
    media = Media(
        LIMITS, workers=1, rules=FetchRules(guard=Guard.allowing([HOST])), resolver=Names({HOST: [["127.0.0.1"]]})
    )
    yield media
    await media.aclose()


async def content_of(media: Media, video: Video) -> VideoContent:
    found = await resolved(media, video)
    assert isinstance(found, Video)
    assert found.content is not None
    return found.content


def shades(content: VideoContent) -> list[int]:
    """The red of each frame; a film's grows by the second."""
    pixels = [PIL.Image.open(io.BytesIO(frame.data)).convert("RGB").getpixel((9, 9)) for frame in content.frames]
    return [pixel[0] for pixel in pixels if isinstance(pixel, tuple)]


@pytest.mark.parametrize(("container", "codec"), MADE)
async def test_a_file_of_any_container_is_sampled(media: Media, container: str, codec: str) -> None:
    data = film(3, size=(320, 240), container=container, codec=codec)
    content = await content_of(media, Video(data_uri(data, "video/mp4")))
    assert len(content.frames) == 6
    assert {(frame.format, frame.width, frame.height, frame.seen) for frame in content.frames} == {
        ("JPEG", 320, 256, (320, 256))
    }
    assert content.tokens == 242
    assert content.seconds == pytest.approx(3, abs=0.15)
    assert content.fps == pytest.approx(1.72, abs=0.05)
    red = shades(content)
    assert red == sorted(red)
    assert red[-1] - red[0] > 80


@pytest.mark.parametrize(("fps", "max_frames", "count"), [(1, None, 6), (0.5, None, 4), (4, None, 24), (4, 9, 8)])
async def test_the_client_says_how_densely(media: Media, fps: float, max_frames: int | None, count: int) -> None:
    uri = data_uri(film(6, size=(64, 64)), "video/mp4")
    content = await content_of(media, Video(uri, fps=fps, max_frames=max_frames))
    assert len(content.frames) == count


async def test_the_client_says_how_large(media: Media) -> None:
    uri = data_uri(film(2, size=(320, 240)), "video/mp4")
    content = await content_of(media, Video(uri, pixels=Pixels(least=4_096, most=16_384)))
    assert content.frames[0].seen == (128, 96)
    assert content.tokens == video_tokens(4, (128, 96)) == 2 * 12 + 2


async def test_frames_far_apart_are_those_of_their_times(tmp_path: Path) -> None:
    """Between them the decoder jumps to key frames instead of decoding everything."""
    path = tmp_path / "film"
    path.write_bytes(film(40, size=(64, 64), rate=5, step=1.2))
    times = (0.05, 12.05, 12.05, 25.05, 39.85)
    frames = sample(str(path), times, (64, 64))
    red = [PIL.Image.open(io.BytesIO(frame)).convert("RGB").getpixel((9, 9)) for frame in frames]
    assert [pixel[0] for pixel in red if isinstance(pixel, tuple)] == pytest.approx([0, 72, 72, 150, 238], abs=4)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (film(1), "requirements because: The video file is too short. [at least 2 s, got 1.0 s]"),
        (film(25, size=(64, 64), rate=1), "The video file is too long. [at most 20 s, got 25.0 s]"),
        (b"", "Invalid video file. [none of MP4, MOV, AVI, MKV, WEBM, FLV, WMV]"),
        (picture(), "Invalid video file. [none of MP4"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://169.254.169.254/\n", "Invalid video file. [none of MP4"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "Invalid video file. [none of MP4"),
        (film(3)[:300], "Invalid video file. ["),
        (b"\0\0\0\x18ftypmp42" + bytes(500), "Invalid video file. ["),
        (b"RIFF\xff\xff\0\0AVI LIST" + bytes(500), "Invalid video file. ["),
        (b"\x1aE\xdf\xa3" + bytes(500), "Invalid video file. ["),
    ],
)
async def test_what_is_no_usable_video_is_refused(media: Media, data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await content_of(media, Video(data_uri(data, "video/mp4")))
    assert words in raised.value.message


@pytest.mark.ring3
async def test_a_video_comes_from_a_url(media: Media) -> None:
    async with site() as films:
        url = films.answer("/v.mp4", film(2, size=(64, 64)), Content_Type="video/mp4")
        assert len((await content_of(media, Video(url))).frames) == 4


async def test_a_list_of_frames(media: Media) -> None:
    frames = tuple(data_uri(picture(form, (320, 240))) for form in ("PNG", "JPEG", "BMP", "PNG", "WEBP"))
    content = await content_of(media, Video(frames, fps=0.5))
    assert len(content.frames) == 6
    assert content.frames[-1] is content.frames[-2]
    assert (content.fps, content.seconds) == (0.5, 10)
    assert {frame.seen for frame in content.frames} == {(320, 256)}
    assert content.tokens == 242


@pytest.mark.parametrize("count", [0, 1, 3, 513])
async def test_a_list_has_4_to_512_frames(media: Media, count: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"the range of sequence images should be \(4, 512\)\. \[got {count}\]"):
        await content_of(media, Video((data_uri(picture()),) * count))


async def test_frames_take_memory_too(media: Media) -> None:
    before = media.budget.free
    await content_of(media, Video((data_uri(picture()),) * 4))
    assert media.budget.free == before


@pytest.mark.ring3
async def test_a_list_does_not_wait_for_the_memory_of_frames_it_is_done_with() -> None:
    frame = picture("BMP", (320, 240))
    names = Names({HOST: [["127.0.0.1"]]})
    rules = FetchRules(guard=Guard.allowing([HOST]))
    media = Media(Limits(uri_chars=len(frame)), rules=rules, resolver=names, memory=6 * len(frame), patience=0.5)
    async with site() as pictures:
        url = pictures.answer("/f.bmp", frame, Content_Type="image/bmp")
        content = await content_of(media, Video((url,) * 8))
    assert len(content.frames) == 8
    await media.aclose()
