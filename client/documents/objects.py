"""What pdfium knows of a page: its drawn objects and its lines of text, in the page's own view."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from typing import Any

import pypdfium2.raw as pdfium_c  # type: ignore[import-untyped]

from client.documents.models import Box
from client.documents.regions import MOST_OF_PAGE, Line, Mark, union

_FINE = 64
"""Device pixels to a point, when pdfium turns the page's own coordinates into those of its view."""
_MOST_OBJECTS = 200_000
_MOST_SEGMENTS = 64
_MOST_LINES = 4_000
_DEPTH = 8
_FIRST_CHINESE = 0x2E7F
Matrix = tuple[float, float, float, float, float, float]
_IDENTITY: Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)


def marks_of(page: Any) -> list[Mark]:
    """Paths, pictures and shadings of a page, at most 200,000 of them. Those of one form are one group, unless the
    form holds the whole page."""
    width, height = page.get_size()
    marks: list[Mark] = []
    for raw, matrix, group in _walk(page, width * height):
        if len(marks) >= _MOST_OBJECTS:
            break
        if (mark := _mark(page, raw, matrix, group)) is not None:
            marks.append(mark)
    return marks


def _walk(page: Any, area: float) -> Iterator[tuple[Any, Matrix, int | None]]:
    """Every object with the matrix of the forms around it and the number of the outermost that is no whole page."""
    pending: list[tuple[Any, Matrix, int | None, int, Any, Any]] = [
        (page, _IDENTITY, None, 0, pdfium_c.FPDFPage_CountObjects, pdfium_c.FPDFPage_GetObject)
    ]
    forms = 0
    while pending:
        parent, matrix, group, depth, count, get = pending.pop()
        for index in range(count(parent)):
            raw = get(parent, index)
            if not raw:
                continue
            if pdfium_c.FPDFPageObj_GetType(raw) != pdfium_c.FPDF_PAGEOBJ_FORM:
                yield raw, matrix, group
            elif depth < _DEPTH:
                forms += 1
                box = _bounds(raw)
                covers = box is None or (box[2] - box[0]) * (box[3] - box[1]) > MOST_OF_PAGE * 0.8 * area
                inner = group if group is not None else None if covers else forms
                own = _times(_matrix(raw), matrix)
                pending.append(
                    (raw, own, inner, depth + 1, pdfium_c.FPDFFormObj_CountObjects, pdfium_c.FPDFFormObj_GetObject)
                )


def _mark(page: Any, raw: Any, matrix: Matrix, group: int | None) -> Mark | None:
    kind = pdfium_c.FPDFPageObj_GetType(raw)
    if kind == pdfium_c.FPDF_PAGEOBJ_TEXT:
        return None
    box = _bounds(raw)
    if box is None:
        return None
    shown = _view(page, _moved(box, matrix))
    if kind != pdfium_c.FPDF_PAGEOBJ_PATH:
        return Mark(shown, plain=False, raster=kind == pdfium_c.FPDF_PAGEOBJ_IMAGE, group=group)
    filled, visible = _paint(raw)
    if not visible and group is None:
        return None
    return Mark(shown, plain=_is_plain(raw) or not visible, filled=filled, group=group)


def _paint(raw: Any) -> tuple[bool, bool]:
    """(filled with another colour than white, leaves anything to see)"""
    mode, stroke = ctypes.c_int(), pdfium_c.FPDF_BOOL()
    pdfium_c.FPDFPath_GetDrawMode(raw, mode, stroke)
    red, green, blue, alpha = (ctypes.c_uint() for _ in range(4))
    filled = mode.value != pdfium_c.FPDF_FILLMODE_NONE
    if filled and pdfium_c.FPDFPageObj_GetFillColor(raw, red, green, blue, alpha):
        filled = alpha.value > 0 and min(red.value, green.value, blue.value) < 250
    return filled, filled or bool(stroke.value)


def _is_plain(raw: Any) -> bool:
    """Whether a path has only level and upright lines."""
    before: tuple[float, float] | None = None
    x, y = ctypes.c_float(), ctypes.c_float()
    for index in range(min(pdfium_c.FPDFPath_CountSegments(raw), _MOST_SEGMENTS)):
        segment = pdfium_c.FPDFPath_GetPathSegment(raw, index)
        kind = pdfium_c.FPDFPathSegment_GetType(segment)
        pdfium_c.FPDFPathSegment_GetPoint(segment, x, y)
        if kind == pdfium_c.FPDF_SEGMENT_BEZIERTO:
            return False
        moved = before is not None and abs(x.value - before[0]) > 0.5 and abs(y.value - before[1]) > 0.5
        if kind == pdfium_c.FPDF_SEGMENT_LINETO and moved:
            return False
        before = x.value, y.value
    return True


def _bounds(raw: Any) -> Box | None:
    sides = [ctypes.c_float() for _ in range(4)]
    if not pdfium_c.FPDFPageObj_GetBounds(raw, *sides):
        return None
    left, bottom, right, top = (side.value for side in sides)
    return left, bottom, right, top


def _matrix(raw: Any) -> Matrix:
    own = pdfium_c.FS_MATRIX()
    if not pdfium_c.FPDFPageObj_GetMatrix(raw, own):
        return _IDENTITY
    return own.a, own.b, own.c, own.d, own.e, own.f


def _times(one: Matrix, other: Matrix) -> Matrix:
    a, b, c, d, e, f = one
    p, q, r, s, t, u = other
    return a * p + b * r, a * q + b * s, c * p + d * r, c * q + d * s, e * p + f * r + t, e * q + f * s + u


def _moved(box: Box, matrix: Matrix) -> Box:
    a, b, c, d, e, f = matrix
    corners = [(x, y) for x in (box[0], box[2]) for y in (box[1], box[3])]
    across = [a * x + c * y + e for x, y in corners]
    up = [b * x + d * y + f for x, y in corners]
    return min(across), min(up), max(across), max(up)


def _view(page: Any, box: Box) -> Box:
    """A box in the page's coordinates (from the lower left, before rotation) as it is shown."""
    width, height = page.get_size()
    x, y = ctypes.c_int(), ctypes.c_int()
    points = []
    for corner in ((box[0], box[1]), (box[2], box[3])):
        pdfium_c.FPDF_PageToDevice(page, 0, 0, round(width * _FINE), round(height * _FINE), 0, *corner, x, y)
        points.append((x.value / _FINE, y.value / _FINE))
    (x0, y0), (x1, y1) = points
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def lines_of(page: Any) -> list[Line]:
    """Lines of text, at most 4,000 pieces of them."""
    textpage = page.get_textpage()
    try:
        pieces = []
        for index in range(min(textpage.count_rects(), _MOST_LINES)):
            box = textpage.get_rect(index)
            if text := textpage.get_text_bounded(*box).strip():
                pieces.append(Line(_view(page, box), text))
        return joined(pieces)
    finally:
        textpage.close()


def joined(pieces: Iterable[Line]) -> list[Line]:
    """Pieces that follow each other on one line as one: pdfium parts them wherever the font changes, and producers
    write one Chinese line in several cuts of a font."""
    lines: list[Line] = []
    for piece in pieces:
        if lines and _follows(lines[-1].box, piece.box):
            lines[-1] = Line(
                union(lines[-1].box, piece.box), f"{lines[-1].text}{_between(lines[-1], piece)}{piece.text}"
            )
        else:
            lines.append(piece)
    return lines


def _between(one: Line, other: Line) -> str:
    """A space where the gap is one; Chinese has none, and its punctuation has a gap of its own."""
    wide = other.box[0] - one.box[2] > 0.2 * (other.box[3] - other.box[1])
    chinese = ord(one.text[-1]) > _FIRST_CHINESE and ord(other.text[0]) > _FIRST_CHINESE
    return " " if wide and not chinese else ""


def _follows(one: Box, other: Box) -> bool:
    height = min(one[3] - one[1], other[3] - other[1])
    level = min(one[3], other[3]) - max(one[1], other[1]) > 0.5 * height
    return level and -0.3 * height < other[0] - one[2] < 1.3 * height


def is_scanned(page: Any, marks: list[Mark]) -> bool:
    """Whether one picture covers the page: a scan, with or without invisible text over it."""
    width, height = page.get_size()
    covering: float = sum((mark.box[2] - mark.box[0]) * (mark.box[3] - mark.box[1]) for mark in marks if mark.raster)
    return bool(covering > 0.7 * width * height)
