"""What is asked: seeded synthetic charts and pages, or lines of one's own.

Unique pictures differ in their pixels, so that no cache that looks at pixels knows one already, and cost the generator
next to nothing: a PNG's last row travels in a deflate block and an IDAT chunk of its own, and only that part is made
anew. Lines of one's own are JSON objects:

    {"images": ["charts/1.png"], "prompt": "...", "max_tokens": 150, "expected": "12.5", "metric": "relaxed"}
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import PIL.Image
import PIL.ImageDraw

Kind = Literal["chart", "page", "noise"]
PROMPT = "Read every value of the chart. Answer as JSON."
_WORDS = (
    "revenue",
    "growth",
    "margin",
    "assets",
    "quarter",
    "million",
    "profit",
    "segment",
    "region",
    "forecast",
    "cash",
)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class BadWorkload(Exception):
    """Raised when a file of one's own is not what the module's text says; the message names the line."""


@dataclass(frozen=True)
class Picture:
    """One image as it travels. `uri` is made once for each picture, and only its tail for each unique one."""

    head: bytes
    tail: bytes
    pixels: int
    media_type: str = "image/png"
    url: str = ""

    def behind(self, url: str) -> Picture:
        """The same picture, which the server has to fetch."""
        return replace(self, url=url)

    @property
    def data(self) -> bytes:
        return self.head + self.tail

    @cached_property
    def uri(self) -> str:
        return self.url or f"data:{self.media_type};base64,{_base64(self.head)}{base64.b64encode(self.tail).decode()}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Ask:
    """One request before any protocol. `expected` and `metric` say how its answer is scored, if it is."""

    images: tuple[Picture, ...]
    prompt: str = PROMPT
    max_tokens: int = 128
    expected: Any = None
    metric: str = ""
    name: str = ""


@dataclass(frozen=True)
class Workload:
    """A seeded source of requests.

    Attributes:
        kind: `chart`, `page` (text, a scan's size) or `noise` (three bytes a pixel: incompressible).
        width, height: pixels of each image.
        images: images in a request; 0 for text alone.
        repeated: share of the images that come from a pool; the others are each seen once.
        pool: images in that pool.
        prompt_tokens: length of the question, in words of one token or two.
        output_tokens: most tokens of an answer.
        seed: equal seeds give equal requests.
    """

    kind: Kind = "chart"
    width: int = 640
    height: int = 640
    images: int = 1
    repeated: float = 0.0
    pool: int = 16
    prompt_tokens: int = 0
    output_tokens: int = 128
    seed: int = 0

    def asks(self) -> Iterator[Ask]:
        """Requests without end."""
        rng, number = random.Random(self.seed), 0
        prompt = self._prompt(rng)
        while True:
            pictures = []
            for _ in range(self.images):
                number += 1
                again = rng.random() < self.repeated
                pictures.append(self._picture(rng.randrange(self.pool) if again else self.pool + number))
            yield Ask(tuple(pictures), prompt, self.output_tokens)

    def _prompt(self, rng: random.Random) -> str:
        filling = " ".join(rng.choice(_WORDS) for _ in range(max(0, self.prompt_tokens - 10)))
        return f"{filling} {PROMPT}".strip()

    @cached_property
    def _bases(self) -> list[tuple[bytes, int]]:
        rng = random.Random(f"{self.seed} {self.kind}")
        return [_opened(_DRAWERS[self.kind](rng, self.width, self.height)) for _ in range(4)]

    def _picture(self, mark: int) -> Picture:
        head, checksum = self._bases[mark % len(self._bases)]
        return Picture(head, _closed(self.width, mark, checksum), self.width * self.height)


PRESETS: dict[str, tuple[Workload, str]] = {
    # MLPerf's rules for Qwen3-VL: nothing is seen twice, and 99 of 100 answers are whole within the limit.
    "mlperf-server": (Workload("page", 1024, 1024, prompt_tokens=200, output_tokens=200), "e2e<=12"),
    "mlperf-interactive": (Workload("page", 512, 512, prompt_tokens=200, output_tokens=100), "e2e<=1.5"),
    "dynamo": (Workload("chart", 640, 640, prompt_tokens=400, output_tokens=150), "ttft<=2,tpot<=0.1"),
    "page": (Workload("page", 1280, 1664, prompt_tokens=200, output_tokens=300), "e2e<=30"),
}
"""Known shapes, each with its objective. The prefix cache of the engine has to be off for the first two."""


def read_lines(path: Path) -> list[Ask]:
    """Requests of one's own. Paths of images are relative to the file.

    Raises:
        BadWorkload: unreadable, not of that form, or an image is missing.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadWorkload(f"{path} cannot be read: {error}") from error
    asks = [_line(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]
    if not asks:
        raise BadWorkload(f"{path} holds no request")
    return asks


def _line(line: str, path: Path, number: int) -> Ask:
    try:
        entry = json.loads(line)
        pictures = tuple(read_picture(path.parent / image) for image in entry.get("images", []))
        known = {name: entry[name] for name in ("prompt", "max_tokens", "expected", "metric", "name") if name in entry}
        return Ask(pictures, **known)
    except (ValueError, AttributeError, TypeError, OSError) as error:
        raise BadWorkload(f"{path}, line {number}: {error}") from error


def read_picture(path: Path) -> Picture:
    """Raises OSError: no such file, or no image."""
    data = path.read_bytes()
    with PIL.Image.open(io.BytesIO(data)) as image:
        return Picture(data, b"", image.width * image.height, PIL.Image.MIME[str(image.format)])


def _chart(rng: random.Random, width: int, height: int) -> PIL.Image.Image:
    image = PIL.Image.new("RGB", (width, height), "white")
    draw = PIL.ImageDraw.Draw(image)
    step, floor = width // 6, height - height // 10
    for bar in range(5):
        left, top = step // 2 + step * bar, rng.randrange(height // 10, floor)
        draw.rectangle((left, top, left + step // 2, floor), fill=rng.choice(("navy", "teal", "brown", "gray")))
        draw.text((left, top - height // 20), f"{rng.uniform(1, 999):.1f}", fill="black", font_size=max(10, step // 5))
        draw.text((left, floor), str(2020 + bar), fill="black", font_size=max(10, step // 5))
    return image


def _page(rng: random.Random, width: int, height: int) -> PIL.Image.Image:
    image = PIL.Image.new("RGB", (width, height), "white")
    draw = PIL.ImageDraw.Draw(image)
    size = max(10, height // 70)
    for top in range(size * 3, height - size * 3, size * 2):
        words = " ".join(rng.choice(_WORDS) if rng.random() < 0.8 else f"{rng.uniform(0, 9999):.2f}" for _ in range(12))
        draw.text((width // 12, top), words, fill="black", font_size=size)
    return image


def _noise(rng: random.Random, width: int, height: int) -> PIL.Image.Image:
    return PIL.Image.frombytes("RGB", (width, height), rng.randbytes(width * height * 3))


_DRAWERS: dict[str, Callable[[random.Random, int, int], PIL.Image.Image]] = {
    "chart": _chart,
    "page": _page,
    "noise": _noise,
}


def _opened(image: PIL.Image.Image) -> tuple[bytes, int]:
    """All of a PNG but its last row, and the checksum so far. Its length is a multiple of three, for base64."""
    width, height = image.size
    stride, pixels = width * 3, image.tobytes()
    rows = b"".join(b"\0" + pixels[at : at + stride] for at in range(0, stride * (height - 1), stride))
    packer = zlib.compressobj(1)
    packed = packer.compress(rows) + packer.flush(zlib.Z_FULL_FLUSH)
    start = _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = _chunk(b"IDAT", packed)
    comment = b"Comment\0" + b" " * ((-len(start) - len(data) - 20) % 3)
    return start + _chunk(b"tEXt", comment) + data, zlib.adler32(rows)


def _closed(width: int, mark: int, checksum: int) -> bytes:
    """The last row, which shows `mark` in its pixels, and the end of the PNG."""
    row = b"\0" + (mark.to_bytes(8, "big") * (width * 3 // 8 + 1))[: width * 3]
    # One stored block: final bit, length, its complement.
    block = b"\x01" + struct.pack("<HH", len(row), len(row) ^ 0xFFFF) + row
    return _chunk(b"IDAT", block + struct.pack(">I", zlib.adler32(row, checksum))) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", binascii.crc32(kind + data))


_encoded: dict[int, tuple[bytes, str]] = {}


def _base64(head: bytes) -> str:
    """Base64 of a head, which many pictures share; kept by identity, for hashing it would cost as much."""
    kept = _encoded.get(id(head))
    if kept is None or kept[0] is not head:
        kept = _encoded[id(head)] = (head, base64.b64encode(head).decode())
    return kept[1]
