from __future__ import annotations

from serving.dashscope.parameters import integer, number
from serving.dashscope.schema import WirePart
from serving.errors import InvalidRequest
from serving.generation import Image, Part, Pixels, Text, Video

MODALITIES = ("text", "image", "video", "audio")
NO_MODALITY = "The item of content should be a message of a certain modal."
NO_AUDIO = "The audio modality is not supported by this server; send text, images and videos."
BAD_URL = "The provided URL does not appear to be valid. Ensure it is correctly formatted."
FPS = (0.1, 10.0)
"""Frames a second; what is asked beyond is clamped, as pixels are."""

MAX_SIZE = 2**40
"""Of numbers that the pixel policy clamps anyway; a float holds it."""


def count(content: str | list[WirePart] | None) -> int:
    """Parts, and the frames of those that are a video in pieces."""
    if not isinstance(content, list):
        return 0
    return len(content) + sum(len(frames) for part in content if isinstance(frames := part.get("video"), list))


def read(wire: WirePart, high_resolution: bool) -> Part:
    """Raises `InvalidRequest` for what is no part of exactly one modality."""
    modality, value = _modality(wire)
    match modality, value:
        case "text", str():
            return Text(value)
        case "image", str():
            return Image(value, pixels=_pixels(wire, high_resolution))
        case "video", str() | list():
            return _video(wire, value)
        case "audio", _:
            raise InvalidRequest(NO_AUDIO)
        case "image" | "video", _:
            raise InvalidRequest(f"{BAD_URL} The value of {modality!r} must be a string.")
    raise InvalidRequest("input content must be a string.")


def _modality(wire: WirePart) -> tuple[str, object]:
    """The one modality of a part. `type` beside it is what some clients echo back; on its own it is another API's."""
    given = [(name, wire[name]) for name in MODALITIES if wire.get(name) is not None]
    if len(given) != 1:
        raise InvalidRequest(NO_MODALITY)
    return given[0]


def _video(wire: WirePart, value: str | list[str]) -> Video:
    fps = None if wire.get("fps") is None else number("fps", wire["fps"])
    return Video(
        value if isinstance(value, str) else tuple(value),
        fps=None if fps is None else min(max(fps, FPS[0]), FPS[1]),
        max_frames=_size(wire, "max_frames"),
        pixels=_pixels(wire, False),
    )


def _pixels(wire: WirePart, high_resolution: bool) -> Pixels:
    least, most, total = _size(wire, "min_pixels"), _size(wire, "max_pixels"), _size(wire, "total_pixels")
    return Pixels(least, most, total, high_resolution)


def _size(wire: WirePart, name: str) -> int | None:
    value = wire.get(name)
    return None if value is None else min(max(integer(name, value), 1), MAX_SIZE)
