"""Videos probed and sampled: only ever in a process of its own."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import PIL.Image
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from serving.media.containers import CONTAINERS, container_of
from serving.media.pictures import encoded

JPEG_QUALITY = 90
SEEK_AFTER = 5.0
"""Seconds to the next wanted frame from which jumping to the key frame before it is cheaper than decoding up to it."""
LONGEST_SCAN = 2_000_000
"""Packets that are looked at for the end of a file whose header does not tell it."""


def probe(path: str) -> tuple[int, int, float, float]:
    """(width, height, seconds, frames a second); the size is upright. Raises whatever the libraries do."""
    with _opened(path) as (container, stream):
        first = next(container.decode(stream))
        width, height = _upright(first).size
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        return width, height, _seconds(container, stream, first), rate


def sample(path: str, times: Sequence[float], size: tuple[int, int]) -> tuple[bytes, ...]:
    """The frame on show at each of `times`, which ascend, as a JPEG of `size`."""
    frames: list[bytes] = []
    with _opened(path) as (container, stream):
        start = float((stream.start_time or 0) * (stream.time_base or 0))
        at = None
        for number, frame in _frames_at(container, stream, times, start):
            if frame is not at:
                at, picture = (
                    frame,
                    encoded(_upright(frame).resize(size, PIL.Image.Resampling.BICUBIC), "JPEG", JPEG_QUALITY),
                )
            assert number == len(frames)
            frames.append(picture)
    return tuple(frames)


def _frames_at(
    container: InputContainer, stream: VideoStream, times: Sequence[float], start: float
) -> Iterator[tuple[int, VideoFrame]]:
    """The last frame that begins no later than each time, with the time's number."""
    frames = container.decode(stream)
    shown = upcoming = next(frames)
    for number, time in enumerate(times):
        if time - (_time(upcoming) - start) > SEEK_AFTER:
            container.seek(_stamp(stream, time + start), stream=stream, backward=True)
            frames = container.decode(stream)
            if (landed := next(frames, None)) is not None:
                shown = upcoming = landed
        while _time(upcoming) - start <= time + 1e-6:
            shown = upcoming
            if (following := next(frames, None)) is None:
                break
            upcoming = following
        yield number, shown


def _stamp(stream: VideoStream, seconds: float) -> int:
    return int(seconds / float(stream.time_base or Fraction(1, 1000)))


def _time(frame: VideoFrame) -> float:
    return frame.time or 0.0


def _seconds(container: InputContainer, stream: VideoStream, first: VideoFrame) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return container.duration / 1_000_000
    end = _time(first)
    for _, packet in zip(range(LONGEST_SCAN), container.demux(stream), strict=False):
        if packet.pts is not None and packet.time_base is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return end - _time(first)


def _upright(frame: VideoFrame) -> PIL.Image.Image:
    image: PIL.Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


@contextmanager
def _opened(path: str) -> Generator[tuple[InputContainer, VideoStream], None, None]:
    """The demuxer is chosen by us and gets no protocol: a playlist inside would name further files and hosts."""
    with Path(path).open("rb") as file:
        name = container_of(file.read(4096))
        if name is None:
            raise ValueError(f"none of {', '.join(CONTAINERS)}")
        file.seek(0)
        with av.open(
            file, "r", format=name, options={"protocol_whitelist": "none"}, metadata_errors="ignore"
        ) as container:
            if not container.streams.video:
                raise ValueError("the file has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
