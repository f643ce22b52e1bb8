from __future__ import annotations

import binascii
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import pybase64

from serving.errors import InvalidImage, InvalidRequest
from serving.generation import ImageContent
from serving.media.addresses import BAD_URL

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SIGNATURES = {
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "BMP": re.compile(rb"BM"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "TIFF": re.compile(rb"(?:II|MM)(?:[*+]\0|\0[*+])"),
    "HEIC": re.compile(rb".{4}ftyp(?:hei[cxm]|hev[cx]|heis|mif1|msf1)", re.DOTALL),
}
"""Of those whose size only a library finds, and that only in a process of its own: it takes a second of CPU to open a
TIFF of 60,000 tags, and 350 MB to tell how a small PNG of many pixels is turned."""
MIN_SIDE = 10
MAX_RATIO = 200
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
MAX_STEPS = 50_000
"""Chunks of a PNG, or segments and fill bytes of a JPEG before its frame header. Real files have a few thousand; 15 MB
of empty ones would hold the event loop for seconds."""

LOOKED_AT = 4096
"""Bytes of a PNG's data that are unpacked to see whether it is any: 20 us."""

BAD_SIZE = "The image length and width do not meet the model restrictions."

LINE_BREAKS = re.compile(r"[ \t\r\n]+")
"""And what else folds base64. Other control characters are no JSON either."""
APP1 = 0xE1
SAYS_SO = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")
START_OF_SCAN = 0xDA


@dataclass(frozen=True, slots=True)
class Limits:
    """`count` images and `videos` videos in a request, `uri_chars` characters of a data URI, `pixels` (width times
    height) of an image or frame; a video lasts up to `seconds`.

    `decode` has every image decoded before it is let through.
    """

    count: int = 250
    uri_chars: int = 20_971_520
    pixels: int = 89_478_485
    decode: bool = False
    videos: int = 64
    seconds: float = 1200


def probe(data: bytes, limits: Limits) -> ImageContent | None:
    """Format and size, as stored, of a PNG or a JPEG, from the header alone; nothing is decompressed. None for what is
    neither. Raises `InvalidImage`."""
    content = _probe_png(data) or _probe_jpeg(data)
    if content is not None:
        check_size(content.width, content.height, limits)
    return content


def other_format(data: bytes) -> str:
    """Of what is neither a PNG nor a JPEG. Raises `InvalidImage`."""
    if not data:
        raise InvalidImage(f"{InvalidImage.message} [the image has 0 bytes]")
    for name, signature in SIGNATURES.items():
        if signature.match(data):
            return name
    raise illegal(f"{len(data)} bytes that are none of {', '.join(FORMATS)}")


def may_be_turned(content: ImageContent) -> bool:
    """Whether the file has a place where it could say how it is to be turned. Looks at no more than it has to: a search
    through all bytes costs as much CPU as the rest of the relay."""
    match content.format:
        case "PNG":
            return any(kind == b"eXIf" or _says_so(content.data[at:end]) for kind, at, end in _texts(content.data))
        case "JPEG":
            return any(
                marker == APP1 and content.data.startswith(SAYS_SO, at + 4) for marker, at in _segments(content.data)
            )
        case _:
            return False


def _says_so(text: bytes) -> bool:
    return b"Raw profile type" in text or b"XML:com.adobe.xmp" in text


def head(content: ImageContent) -> bytes:
    """What of the file says how it is to be turned: of a JPEG all that stands before the data of its picture."""
    data = content.data
    if content.format == "JPEG":
        *_, (_, at) = _segments(data)
        for _ in range(MAX_STEPS):
            if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] == 0xFF:
                break
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if data[at + 1] == START_OF_SCAN:
                return data[:end]
            at = end
    return data


def payload_of(reference: str, limits: Limits) -> str:
    """The base64 of a data URI. Raises `InvalidRequest`."""
    if len(reference) > limits.uri_chars:
        raise InvalidRequest(
            f"Exceeded limit on max bytes per data-uri item : {limits.uri_chars}, got {len(reference)}"
        )
    header, comma, payload = reference.partition(",")
    if not header.lower().startswith("data:") or not comma or not header.lower().endswith(";base64"):
        raise InvalidRequest(f"{BAD_URL} An image or a video is given as https://..., or data:image/png;base64,...")
    return payload


def unpacked(payload: str) -> tuple[bytes, str]:
    """The bytes, and their base64 without line breaks. Raises `InvalidRequest`."""
    try:
        return pybase64.b64decode(payload, validate=True), payload
    except (binascii.Error, ValueError):
        payload = LINE_BREAKS.sub("", payload)
    try:
        return pybase64.b64decode(payload, validate=True), payload
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{BAD_URL} What follows `base64,` in the data URI is not base64.") from None


def check_size(width: int, height: int, limits: Limits) -> None:
    ratio = max(width, height) / max(1, min(width, height))
    if min(width, height) < MIN_SIDE:
        detail = f"height:{height} or width:{width} must be larger than {MIN_SIDE}"
    elif ratio > MAX_RATIO:
        detail = f"absolute aspect ratio must be smaller than {MAX_RATIO}, got {ratio:.1f}"
    elif width * height > limits.pixels:
        detail = f"height:{height} times width:{width} is {width * height} pixels, must be at most {limits.pixels}"
    else:
        return
    raise InvalidImage(f"{BAD_SIZE} [{detail}]")


def _probe_png(data: bytes) -> ImageContent | None:
    if not data.startswith(PNG_SIGNATURE):
        return None
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise illegal("the PNG does not begin with its IHDR chunk")
    width, height = struct.unpack_from(">II", data, 16)
    return ImageContent(data, "PNG", width, height)


def _probe_jpeg(data: bytes) -> ImageContent | None:
    if not data.startswith(JPEG_SIGNATURE):
        return None
    for marker, at in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return ImageContent(data, "JPEG", width, height)
    raise illegal("the JPEG ends before its frame header")


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and offset of each segment up to the frame header. Entropy-coded data comes after it, so few steps are
    enough."""
    at = 2
    for _ in range(MAX_STEPS):
        if at + 9 > len(data) or data[at] != 0xFF:
            return
        marker = data[at + 1]
        yield marker, at
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return
        padding_or_bare = marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8
        at += (1 if marker == 0xFF else 2) if padding_or_bare else 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def is_whole(content: ImageContent) -> bool:
    """Whether the file's structure proves that nothing is missing; False is "cannot tell". Raises `InvalidImage`."""
    if content.format == "PNG":
        _check_png(content.data)
        return True
    if content.format == "JPEG":
        if not content.data.rfind(b"\xff\xd9") > content.data.rfind(b"\xff\xda") > 0:
            raise illegal("the JPEG ends before its end-of-image marker")
        return True
    return False


def _check_png(data: bytes) -> None:
    """Walks the chunks up to the last one, and sums those that make the picture."""
    view = memoryview(data)
    at, unpacked = len(PNG_SIGNATURE), False
    for _ in range(MAX_STEPS):
        if at + 12 > len(data):
            break
        end = at + 8 + int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        if end + 4 > len(data):
            break
        if kind[:1].isupper() and zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise illegal(f"the checksum of the PNG's {kind.decode('latin-1')} chunk is wrong")
        if kind == b"IEND":
            return
        if kind == b"IDAT" and not unpacked:
            _check_beginning(view[at + 8 : end])
            unpacked = True
        at = end + 4
    raise illegal("the PNG ends before its IEND chunk")


def _check_beginning(packed: memoryview) -> None:
    """Unpacks the first bytes alone. Sums prove that nothing changed on the way, not that it was ever a picture, and an
    engine that reads broken files answers about a blank one."""
    try:
        zlib.decompressobj().decompress(packed[:LOOKED_AT], LOOKED_AT)
    except zlib.error:
        raise illegal("the image data of the PNG cannot be unpacked") from None


def _texts(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, beginning and end of the chunks of a whole PNG that are no part of the picture."""
    at = len(PNG_SIGNATURE)
    for _ in range(MAX_STEPS):
        if at + 12 > len(data):
            return
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind[:1].islower():
            yield kind, at + 8, end
        if kind == b"IEND":  # behind it may lie anything
            return
        at = end + 4


def illegal(detail: str) -> InvalidImage:
    return InvalidImage(f"{InvalidImage.message} [{detail}]")
