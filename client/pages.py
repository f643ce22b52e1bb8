from __future__ import annotations

import atexit
import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from client.errors import UnusableImage
from client.images import display

if TYPE_CHECKING:
    import pypdfium2  # type: ignore[import-untyped]

DPI = 144
"""Pixels per inch of a page: an A4 page becomes 1,191 x 1,684, about 1,950 image tokens."""

_MAX_SIDE = 8_000
_QUALITY = 90
_PDFIUM = threading.RLock()
"""PDFium may be entered by one thread at a time."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a PDF, drawn when it is asked about. `number` counts from 1."""

    path: Path
    number: int

    @property
    def name(self) -> str:
        return f"{display(self.path)}#page={self.number}"

    def digest(self) -> str:
        """Of the file's bytes, the page's number and the resolution: telling whether a page is known draws nothing."""
        return hashlib.sha256(f"{_file_digest(self.path, _stamp(self.path))}:{self.number}:{DPI}".encode()).hexdigest()

    def read(self) -> bytes:
        """The page as a JPEG."""
        return _drawn(self.path, self.number)


def pages(path: Path) -> Iterator[Page]:
    """The pages of a PDF, in order.

    Raises:
        UnusableImage: encrypted, broken, without a page, or PDFium is not installed.
    """
    with _PDFIUM:
        count = len(_opened(path, _stamp(path)))
    if not count:
        raise UnusableImage("the PDF has no page")
    for number in range(1, count + 1):
        yield Page(path, number)


def _stamp(path: Path) -> tuple[int, int]:
    """Changes with the file."""
    try:
        found = path.stat()
    except OSError as error:
        raise UnusableImage(f"cannot be read: {error.strerror or error}") from error
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=2)
def _file_digest(path: Path, stamp: tuple[int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=2)
def _opened(path: Path, stamp: tuple[int, int]) -> pypdfium2.PdfDocument:
    """Kept while its pages are asked about: opening a large PDF takes longer than drawing a page. Call it locked."""
    try:
        import pypdfium2
    except ImportError as error:
        raise UnusableImage("a PDF; to ask about its pages: pip install 'homescope[documents]'") from error
    _close_at_exit()
    try:
        return pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        encrypted = "password" in str(error).lower()
        raise UnusableImage("the PDF is encrypted" if encrypted else f"the PDF cannot be read: {error}") from error
    except OSError as error:
        raise UnusableImage(f"cannot be read: {error.strerror or error}") from error


@cache
def _close_at_exit() -> None:
    """Before PDFium's own end, which complains about documents that are still open."""
    atexit.register(lambda: _opened.cache_clear())


def _drawn(path: Path, number: int) -> bytes:
    import pypdfium2

    with _PDFIUM:
        document = _opened(path, _stamp(path))
        try:
            page = document[number - 1]
            scale = min(DPI / 72, _MAX_SIDE / max(page.get_size()))
            image = page.render(scale=scale).to_pil()
            page.close()
        except (pypdfium2.PdfiumError, IndexError) as error:
            raise UnusableImage(f"page {number} cannot be drawn: {error}") from error
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
