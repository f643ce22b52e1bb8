from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from client.errors import HomescopeError

Kind = Literal["figure", "table"]
Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom in points (1/72 inch) from the page's upper left corner, as the page is shown."""


class UnreadableDocument(HomescopeError):
    """Raised when a file is no PDF, is damaged beyond use, or needs a password."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart, picture or table of a document, saved as an image.

    Attributes:
        page: from 1.
        box: where it stands on the page.
        kind: `table` where it is ruled like one, `figure` for everything else.
        caption: the line under or over it, empty where there is none.
        scanned: it was found in the picture of a page, not among the page's objects.
        image: the PNG file.
        digest: SHA-256 of that file, hexadecimal.
        nearby: the text of its page, cut to a few thousand characters: what tells currency and unit where neither
            chart nor caption does. Empty on a scanned page.
        turned: degrees clockwise (90, 180, 270) by which the image was turned, because its page was scanned lying on
            its side or head; `box` is on the page as the file shows it.
    """

    page: int
    box: Box
    kind: Kind
    caption: str
    scanned: bool
    image: Path
    digest: str
    nearby: str = ""
    turned: int = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """The document can be read and has so many pages."""

    pages: int


@dataclass(frozen=True, slots=True)
class PageRead:
    """A page was searched. `page` from 1."""

    page: int
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class PageFailed:
    """A page could not be read, and why; the document goes on after it."""

    page: int
    reason: str


Event: TypeAlias = Opened | PageRead | PageFailed
