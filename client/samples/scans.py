from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.samples.pages import HEIGHT, Box, Pages

SCAN_DPI = 150
_TILT = 0.6
"""Degrees by which a sheet lies askew, at most."""


@dataclass(frozen=True)
class Scanner:
    """How a sheet is copied.

    Attributes:
        dpi: dots per inch.
        tilt: degrees by which it lies askew, counterclockwise.
        noise: standard deviation of the grey values, of 255.
        quality: of the JPEG, 1 to 95.
        turned: quarter turns by which it lies wrong, in degrees clockwise.
    """

    dpi: int = SCAN_DPI
    tilt: float = 0.0
    noise: float = 8.0
    quality: int = 75
    turned: int = 0

    def moved(self, box: Box, size: tuple[float, float]) -> Box:
        """Where the copy shows what was in `box` on a page of that size, in points; a tilted box by its outline."""
        left, top, right, bottom = box
        middle = size[0] / 2, size[1] / 2
        sine, cosine = math.sin(math.radians(self.tilt)), math.cos(math.radians(self.tilt))
        corners = [(x - middle[0], y - middle[1]) for x in (left, right) for y in (top, bottom)]
        points = [(x * cosine + y * sine, y * cosine - x * sine) for x, y in corners]
        for _ in range(self.turned // 90):
            points, middle = [(-y, x) for x, y in points], (middle[1], middle[0])
        across, down = zip(*points, strict=True)
        return (
            min(across) + middle[0], min(down) + middle[1], max(across) + middle[0], max(down) + middle[1],
        )  # fmt: skip


def assemble(pages: Pages, rng: random.Random) -> bytes:
    """One PDF: charts put on their pages as vectors, then the scanned pages turned into pictures."""
    import pypdfium2 as pdfium  # type: ignore[import-untyped]

    with pdfium.PdfDocument(pages.text) as document:
        _insert_charts(document, pages)
        for number in sorted(pages.scanned):
            _scan(document, number - 1, Scanner(tilt=rng.uniform(-_TILT, _TILT)))
        stream = io.BytesIO()
        document.save(stream)
        return stream.getvalue()


def scan_document(path: Path, out: Path, scanner: Scanner) -> None:
    """Writes a PDF whose pages are copies of those of another."""
    import pypdfium2 as pdfium

    with pdfium.PdfDocument(path) as document:
        for index in range(len(document)):
            _scan(document, index, scanner)
        document.save(out)


def _insert_charts(document: Any, pages: Pages) -> None:
    import pypdfium2 as pdfium

    charts = [placed for placed in pages.placed if placed.plate is not None]
    for placed, chart in zip(charts, pages.charts, strict=True):
        page = document[placed.page - 1]
        with pdfium.PdfDocument(chart) as drawing:
            form = drawing.page_as_xobject(0, document).as_pageobject()
        form.set_matrix(pdfium.PdfMatrix().translate(placed.box[0], HEIGHT - placed.box[3]))
        page.insert_obj(form)
        page.gen_content()
        page.close()


def _scan(document: Any, index: int, scanner: Scanner) -> None:
    """Replaces a page by a picture of it: grey, askew, with the noise of a scanner, as a JPEG."""
    import pypdfium2 as pdfium

    page = document[index]
    size, sheet = page.get_size(), page.render(scale=scanner.dpi / 72).to_pil()
    page.close()
    document.del_page(index)
    picture = pdfium.PdfImage.new(document)
    picture.load_jpeg(io.BytesIO(_copied(sheet, scanner)))
    size = size[::-1] if scanner.turned % 180 else size
    picture.set_matrix(pdfium.PdfMatrix().scale(*size))
    page = document.new_page(*size, index=index)
    page.insert_obj(picture)
    page.gen_content()
    page.close()


def _copied(sheet: Any, scanner: Scanner) -> bytes:
    from PIL import Image, ImageChops

    tilted = sheet.convert("L").rotate(scanner.tilt, Image.Resampling.BICUBIC, fillcolor=255)
    turned = tilted.rotate(-scanner.turned, expand=True)
    noise = Image.effect_noise(turned.size, scanner.noise)
    copied = ImageChops.add(turned, noise, offset=-132).convert("RGB")
    stream = io.BytesIO()
    copied.save(stream, "JPEG", quality=scanner.quality, dpi=(scanner.dpi, scanner.dpi))
    return stream.getvalue()
