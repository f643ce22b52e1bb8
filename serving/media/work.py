"""What the decoding processes are asked, and what they answer: msgpack on a pipe, each with its length in front.

Not pickle: a process that a hostile file has taken over must not be able to take over the server as well.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

import msgspec

LENGTH = struct.Struct(">Q")


class Look(msgspec.Struct, tag=True, frozen=True):
    """Asks for the upright size of an image, without its pixels."""

    data: bytes
    format: str


class Check(msgspec.Struct, tag=True, frozen=True):
    """Asks whether an image decodes to its end."""

    data: bytes
    format: str


class Convert(msgspec.Struct, tag=True, frozen=True):
    """Asks for an image upright, in RGB, resampled to `size` (width, height), or in its own where that is None, as
    `target`: a JPEG or a PNG."""

    data: bytes
    format: str
    size: tuple[int, int] | None
    target: str


class Probe(msgspec.Struct, tag=True, frozen=True):
    """Asks for the size and duration of the video in the file at `path`."""

    path: str


class Sample(msgspec.Struct, tag=True, frozen=True):
    """Asks for the frames of a video that are nearest to `times` (seconds, ascending), as JPEGs of `size`."""

    path: str
    times: tuple[float, ...]
    size: tuple[int, int]


class Picture(msgspec.Struct, tag=True, frozen=True):
    """An image; `data` is empty where only its size was asked for."""

    data: bytes
    width: int
    height: int


class Film(msgspec.Struct, tag=True, frozen=True):
    """A video: upright size in pixels, duration in seconds, frames a second."""

    width: int
    height: int
    seconds: float
    rate: float


class Frames(msgspec.Struct, tag=True, frozen=True):
    """JPEGs, as many as there were times."""

    frames: tuple[bytes, ...]


class Failure(msgspec.Struct, tag=True, frozen=True):
    """The file cannot be read; `reason` is the library's."""

    reason: str


Job: TypeAlias = Look | Check | Convert | Probe | Sample
Result: TypeAlias = Picture | Film | Frames | Failure

encode = msgspec.msgpack.Encoder().encode
_jobs: msgspec.msgpack.Decoder[Job] = msgspec.msgpack.Decoder(Job)
_results: msgspec.msgpack.Decoder[Result] = msgspec.msgpack.Decoder(Result)


def decode_job(body: bytes) -> Job:
    return _jobs.decode(body)


def decode_result(body: bytes) -> Result:
    return _results.decode(body)
