"""Images decoded, turned upright, resampled and written: only ever in a process of its own."""

from __future__ import annotations

import importlib
import io
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import PIL.Image
import PIL.ImageOps

JPEG_QUALITY = 95
PNG_LEVEL = 1
"""A third of the CPU of the usual level, for files that travel to the next process."""
WHITE = (255, 255, 255)
NO_HEIC = "HEIC images need the library pillow-heif, which this server does not have; send the image as JPEG or PNG"


def look(data: bytes, form: str) -> tuple[int, int]:
    """(width, height) in pixels, upright."""
    with _opened(data, form) as image:
        # Of a TIFF Pillow turns the size itself.
        turned = form != "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else image.size


def check(data: bytes, form: str) -> None:
    with _opened(data, form) as image:
        image.load()


def convert(data: bytes, form: str, size: tuple[int, int] | None, target: str) -> tuple[bytes, int, int]:
    """The file and its (width, height). Transparent pixels lie on white, as the engine lays them."""
    with _opened(data, form) as image:
        upright = _rgb(PIL.ImageOps.exif_transpose(image) or image)
    if size is not None and size != upright.size:
        upright = upright.resize(size, PIL.Image.Resampling.BICUBIC)
    return encoded(upright, target), *upright.size


def encoded(image: PIL.Image.Image, target: str, quality: int = JPEG_QUALITY) -> bytes:
    buffer = io.BytesIO()
    if target == "PNG":
        image.save(buffer, "PNG", compress_level=PNG_LEVEL)
    else:
        image.save(buffer, "JPEG", quality=quality, subsampling=0 if quality == JPEG_QUALITY else -1)
    return buffer.getvalue()


def _rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = PIL.Image.new("RGB", layer.size, WHITE)
        ground.paste(layer, mask=layer.getchannel("A"))
        return ground
    return image.convert("RGB")


@contextmanager
def _opened(data: bytes, form: str) -> Generator[PIL.Image.Image, None, None]:
    if form == "HEIC":
        _load_heic()
    # An MPO is a JPEG with more pictures behind it; Pillow names it so only after it has opened it as a JPEG.
    formats = ("JPEG", "MPO") if form == "JPEG" else ("HEIF",) if form == "HEIC" else (form,)
    with PIL.Image.open(io.BytesIO(data), formats=formats) as image:
        yield image


def _load_heic() -> None:
    try:
        plugin: Any = importlib.import_module("pillow_heif")
    except ImportError:
        raise ValueError(NO_HEIC) from None
    plugin.register_heif_opener(thumbnails=False)
