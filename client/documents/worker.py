"""The process that opens PDFs: pdfium may crash on a damaged file, and takes this process alone with it.

One JSON object on standard input says what to do; each line on standard output is one thing that happened.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pypdfium2 as pdfium  # type: ignore[import-untyped]
import pypdfium2.raw as pdfium_c  # type: ignore[import-untyped]

from client.documents.models import Box
from client.documents.objects import is_scanned, lines_of, marks_of
from client.documents.regions import Region, clipped, find_regions, overlap
from client.documents.scans import LAYOUT_DPI, SCAN_DPI, detected, find_scanned

REOPEN_AFTER = 64
"""Pages after which a document is opened anew: pdfium keeps what it has parsed, and memory would grow with the file."""
MARGIN = 2.0
_MOST_PIXELS = 6_000_000
_MOST_NEARBY = 2_000


def main() -> None:
    # What a library prints must not get between the lines that the parent reads.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.disable(logging.WARNING)
    task = json.loads(sys.stdin.readline())
    with contextlib.suppress(BrokenPipeError):
        _Reading(task, out).run()


class _Reading:
    def __init__(self, task: dict[str, Any], out: io.TextIOBase | Any) -> None:
        self.path, self.folder = task["path"], Path(task["folder"])
        self.password, self.first, self.dpi = task["password"], task["first"], task["dpi"]
        self.out = out

    def say(self, **event: Any) -> None:
        self.out.write(json.dumps(event, ensure_ascii=False) + "\n")
        self.out.flush()

    def run(self) -> None:
        try:
            document = self._open()
        except pdfium.PdfiumError:
            self.say(event="unreadable", reason=_reason(self.path))
            return
        pages = len(document)
        self.say(event="opened", pages=pages)
        for number in range(self.first, pages + 1):
            if (number - self.first) % REOPEN_AFTER == REOPEN_AFTER - 1:
                document.close()
                document = self._open()
            self.say(event="begun", page=number)
            try:
                figures = self._page(document, number)
                self.say(event="page", page=number, figures=figures)
            except OSError as error:  # a full disk: no later page would go better
                self.say(event="stopped", errno=error.errno, reason=error.strerror, path=str(self.folder))
                return
            except (pdfium.PdfiumError, ValueError, MemoryError) as error:
                self.say(event="failed", page=number, reason=str(error) or type(error).__name__)
        document.close()

    def _open(self) -> Any:
        return pdfium.PdfDocument(self.path, password=self.password or None)

    def _page(self, document: Any, number: int) -> list[dict[str, Any]]:
        page = document[number - 1]
        try:
            marks = marks_of(page)
            if is_scanned(page, marks):
                regions, turned = find_scanned(*_rendered(page, SCAN_DPI / 72))
                return [self._saved(page, number, region, turned=turned, scanned=True) for region in regions]
            lines = lines_of(page)
            width, height = page.get_size()
            regions = _told_apart(page, find_regions(marks, lines, width, height))
            nearby = "\n".join(line.text for line in lines)[:_MOST_NEARBY] if regions else ""
            return [self._saved(page, number, region, nearby) for region in regions]
        finally:
            page.close()

    def _saved(
        self, page: Any, number: int, region: Region, nearby: str = "", *, turned: int = 0, scanned: bool = False
    ) -> dict[str, Any]:
        width, height = page.get_size()
        box = clipped(region.box, width, height, MARGIN)
        data = _image(page, box, self.dpi / 72, turned)
        digest = hashlib.sha256(data).hexdigest()
        path = self.folder / f"p{number:04d}-{round(box[0])}-{round(box[1])}-{digest[:8]}.png"
        new = path.with_name(path.name + ".new")
        try:
            new.write_bytes(data)
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        return {
            "page": number, "box": [round(side, 1) for side in box], "kind": region.kind, "caption": region.caption,
            "scanned": scanned, "image": str(path), "digest": digest, "nearby": nearby,
            "turned": turned,
        }  # fmt: skip


def _told_apart(page: Any, regions: list[Region]) -> list[Region]:
    """Pictures on a page may be tables: the layout model says, and is asked for nothing else."""
    if not any(region.raster for region in regions):
        return regions
    seen = detected(*_rendered(page, LAYOUT_DPI / 72))
    tables = [other.box for other in seen if other.kind == "table"]
    return [
        replace(region, kind="table")
        if region.raster and any(overlap(region.box, table) > 0.5 for table in tables)
        else region
        for region in regions
    ]


def _rendered(page: Any, scale: float) -> tuple[Any, float]:
    """The page as an RGB array, and its pixels to a point."""
    width, height = page.get_size()
    scale = min(scale, (_MOST_PIXELS / (width * height)) ** 0.5)
    bitmap = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False)
    try:
        return bitmap.to_numpy()[:, :, :3].copy(), scale
    finally:
        bitmap.close()


def _image(page: Any, box: Box, scale: float, turned: int) -> bytes:
    """PNG of a part of the page, turned clockwise by so many degrees."""
    width, height = page.get_size()
    scale = min(scale, (_MOST_PIXELS / max((box[2] - box[0]) * (box[3] - box[1]), 1.0)) ** 0.5)
    crop = (box[0], height - box[3], width - box[2], box[1])
    bitmap = page.render(scale=scale, crop=crop)
    try:
        stream = io.BytesIO()
        bitmap.to_pil().convert("RGB").rotate(-turned, expand=True).save(stream, "PNG")
        return stream.getvalue()
    finally:
        bitmap.close()


def _reason(path: str) -> str:
    """pdfium's last error in words that say what to do."""
    code = pdfium_c.FPDF_GetLastError()
    if code == pdfium_c.FPDF_ERR_PASSWORD:
        return "it is encrypted: pass its password"
    if code == pdfium_c.FPDF_ERR_SECURITY:
        return "it is encrypted in a way that cannot be read"
    with Path(path).open("rb") as file:
        start = file.read(1024)
    return "it is damaged" if b"%PDF" in start else "it is empty" if not start else "it is not a PDF"


if __name__ == "__main__":
    main()
