from __future__ import annotations

import base64
import io
import os
import stat
import warnings
from pathlib import Path

from PIL import Image

from client.errors import UnusableImage

MAX_DATA_URI = 20_971_520
"""Bytes of one data URI that the cloud accepts ("Exceeded limit on max bytes per data-uri item : 20971520")."""

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
}
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}
_HEAD = 64
_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}


def media_type(data: bytes) -> str | None:
    """`image/png` and the like, from the first bytes; None when it is no image that Qwen-VL accepts."""
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return "image/heic"
    # "BM" alone also begins text files: the length of the second header tells them apart.
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "image/bmp"
    return None


def is_whole(data: bytes, kind: str) -> bool:
    """False when the image was cut short.

    Looks at the end marker or the length field, microseconds each. Only where that leaves a doubt (cameras append to
    JPEG files) is the image decoded. HEIC is left to the server: Pillow does not read it.
    """
    quick = {
        "image/png": data[-8:-4] == b"IEND",
        "image/jpeg": data.endswith(b"\xff\xd9"),
        "image/gif": data.endswith(b";"),
        "image/webp": int.from_bytes(data[4:8], "little") + 8 <= len(data),
        "image/bmp": int.from_bytes(data[2:6], "little") <= len(data),
        "image/heic": True,
    }
    return quick.get(kind, False) or _decodes(data)


def _decodes(data: bytes) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        except Image.DecompressionBombError:
            return True  # too many pixels to try here; whether they are too many to ask about is the server's to say
        except (OSError, SyntaxError, ValueError):
            return False
    return True


def check(data: bytes) -> str:
    """The media type of whole image bytes.

    Raises:
        UnusableImage: empty, no image, cut short, or too large to send inside a request.
    """
    kind = _kind(data, len(data))
    if not is_whole(data, kind):
        raise UnusableImage(f"the {kind.removeprefix('image/').upper()} is cut short or damaged")
    return kind


def _kind(head: bytes, size: int) -> str:
    if not size:
        raise UnusableImage("the file is empty")
    kind = media_type(head)
    if kind is None:
        raise UnusableImage("not an image")
    if len(_uri_prefix(kind)) + (size + 2) // 3 * 4 > MAX_DATA_URI:
        raise UnusableImage(f"too large to send: {size / 1e6:.1f} MB, at most {MAX_DATA_URI * 3 // 4 / 1e6:.1f} MB")
    return kind


class DataURI(str):
    """What `data_uri` made: nothing in it has to be escaped."""

    __slots__ = ()


def data_uri(data: bytes) -> DataURI:
    """`data:image/png;base64,...`, with the type that the bytes have.

    Raises:
        UnusableImage: as `check`.
    """
    return DataURI(_uri_prefix(check(data)) + base64.b64encode(data).decode())


def from_data_uri(uri: str) -> bytes:
    """The bytes that a base64 data URI holds.

    Raises:
        UnusableImage: it holds none.
    """
    head, comma, body = uri.partition(",")
    try:
        if comma and head.endswith(";base64"):
            return base64.b64decode(body, validate=True)
    except ValueError:
        pass
    raise UnusableImage("the data URI is not base64: data:image/png;base64,...")


def _uri_prefix(kind: str) -> str:
    return f"data:{kind};base64,"


def display(path: Path) -> str:
    """The name used in results: as given, with bytes that are not UTF-8 written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read(path: Path) -> bytes:
    """The bytes of a regular file that is a whole image.

    Raises:
        UnusableImage: the reason, fit for a person.
    """
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            readable = os.access(path, os.R_OK | os.X_OK)
            raise UnusableImage("a folder, not an image" if readable else "a folder that cannot be read")
        if not stat.S_ISREG(info.st_mode):
            # Opening a FIFO would wait for its writer for ever.
            raise UnusableImage("not a regular file")
        with path.open("rb", buffering=0) as file:
            if info.st_size > MAX_DATA_URI:
                _kind(file.read(_HEAD), info.st_size)  # says why not, from the first bytes
            data = file.readall()
    except OSError as error:
        raise UnusableImage(f"cannot be read: {error.strerror or error}") from error
    check(data)
    return data
