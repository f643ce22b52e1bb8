from __future__ import annotations

import io
import random
from typing import Any

from client.samples.pages import HEIGHT, Pages

SCAN_DPI = 150
_TILT = 0.6
"""Degrees by which a sheet lies askew, at most."""


def assemble(pages: Pages, rng: random.Random) -> bytes:
    """One PDF: charts put on their pages as vectors, then the scanned pages turned into pictures."""
    import pypdfium2 as pdfium  # type: ignore[import-untyped]

    with pdfium.PdfDocument(pages.text) as document:
        _insert_charts(document, pages)
        for number in sorted(pages.scanned):
            _scan(document, number - 1, rng)
        stream = io.BytesIO()
        document.save(stream)
        return stream.getvalue()


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


def _scan(document: Any, index: int, rng: random.Random) -> None:
    """Replaces a page by a picture of it: grey, a little askew, with the noise of a scanner, as a JPEG."""
    import pypdfium2 as pdfium

    page = document[index]
    size, sheet = page.get_size(), page.render(scale=SCAN_DPI / 72).to_pil()
    page.close()
    document.del_page(index)
    picture = pdfium.PdfImage.new(document)
    picture.load_jpeg(io.BytesIO(_copied(sheet, rng)))
    picture.set_matrix(pdfium.PdfMatrix().scale(*size))
    page = document.new_page(*size, index=index)
    page.insert_obj(picture)
    page.gen_content()
    page.close()


def _copied(sheet: Any, rng: random.Random) -> bytes:
    from PIL import Image, ImageChops

    tilted = sheet.convert("L").rotate(rng.uniform(-_TILT, _TILT), Image.Resampling.BICUBIC, fillcolor=255)
    noise = Image.effect_noise(tilted.size, 8)
    copied = ImageChops.add(tilted, noise, offset=-132).convert("RGB")
    stream = io.BytesIO()
    copied.save(stream, "JPEG", quality=75, dpi=(SCAN_DPI, SCAN_DPI))
    return stream.getvalue()
