"""Regions of a scanned page from its ink: what the layout model overlooks.

The parts of the picture that are no letters become marks, as if they were a page's drawn objects, and are put
together by the same rules. All boxes in points.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

from client.documents.models import Box
from client.documents.regions import MIN_HEIGHT, MIN_WIDTH, Line, Mark, Region, is_drawn, labelled, union

_DPI = 100
_LETTER = 22.0
"""Points; a piece of ink that is no higher may be letters that touch, unless it is long and thin or mostly empty."""
_THIN, _LONG = 5.0, 40.0
_EMPTY = 0.3
_MOST_OF_PAGE = 0.5
_RUN = 24.0
"""Points; ink that lies in a level or upright run as long is straight: a line that rises slowly has shorter ones."""
_STRAIGHT = 0.8
_SOLID = 0.75
_BLOCK = 8.0
_ASIDE, _BETWEEN = 26.0, 42.0
"""Points between two charts' halves side by side, and from bars up to the line over them, with labels between."""
_DOWN_TO_AXIS = 110.0
_TITLE = 22.0
_LEAST_CONTRAST = 28


def ink_of(grey: Any) -> Any:
    """255 where a grey picture is darker than its paper and its noise, else 0."""
    import cv2
    import numpy as np

    smooth = cv2.medianBlur(grey, 3)
    paper = float(np.percentile(smooth, 90))
    noise = float(np.median(np.abs(smooth[smooth > paper - 60] - paper))) if smooth.size else 0.0
    contrast = max(_LEAST_CONTRAST, 4.5 * noise)
    return np.where(smooth < paper - contrast, 255, 0).astype(np.uint8)


def inked(grey: Any, scale: float) -> list[Region]:
    """Figures, and tables with level rules, among the ink of an upright page, without captions.

    Args:
        grey: the page, height x width, 8 bits.
        scale: its pixels to a point.
    """
    import cv2

    wanted = _DPI / 72
    small = cv2.resize(grey, None, fx=wanted / scale, fy=wanted / scale, interpolation=cv2.INTER_AREA)
    marks, letters = _pieces(ink_of(small), wanted)
    lines = _lines(letters, wanted)
    found = (_region(box, group, lines) for box, group in _together(marks, lines))
    return [region for region in found if region is not None]


def _region(box: Box, marks: list[Mark], lines: list[Line]) -> Region | None:
    width, height = box[2] - box[0], box[3] - box[1]
    if width < MIN_WIDTH or height < MIN_HEIGHT:
        return None
    low = all(mark.box[3] - mark.box[1] <= _LETTER for mark in marks)
    rules = [mark for mark in marks if mark.plain and mark.box[2] - mark.box[0] > 0.8 * width]
    if low and len(rules) >= 3:
        return Region(box, "table")
    return Region(labelled(box, lines, _TITLE), "figure") if is_drawn(marks, width) else None


def _together(marks: list[Mark], lines: list[Line]) -> list[tuple[Box, list[Mark]]]:
    """Groups of marks that make one figure, each with the box around it."""
    groups = [(mark.box, [mark]) for mark in marks]
    merging = True
    while merging:
        merging = False
        for one, other in combinations(groups, 2):
            if _belong(one[0], other[0], lines):
                groups = [each for each in groups if each is not one and each is not other]
                groups.append((union(one[0], other[0]), one[1] + other[1]))
                merging = True
                break
    return groups


def _belong(one: Box, other: Box, lines: list[Line]) -> bool:
    """Side by side or over each other with no more than labels between; an axis may lie further below its line."""
    aside, over = max(one[0], other[0]) - min(one[2], other[2]), max(one[1], other[1]) - min(one[3], other[3])
    if max(aside, over) < 0:
        return True
    widths, heights = (sorted(each[end] - each[end - 2] for each in (one, other)) for end in (2, 3))
    if over < 0:
        return aside < _ASIDE and -over > 0.5 * heights[0]
    if -aside < 0.7 * widths[0]:
        return False
    if over < _BETWEEN:
        return True
    axis = heights[0] < _THIN and widths[1] < 1.4 * widths[0]
    between = max(one[1], other[1]) - over, max(one[1], other[1])
    text = any(
        between[0] < (line.box[1] + line.box[3]) / 2 < between[1] and line.box[2] - line.box[0] > 0.6 * widths[1]
        for line in lines
    )
    return axis and over < _DOWN_TO_AXIS and not text


def text_lines(grey: Any, scale: float, most: int = 12) -> list[Box]:
    """The longest lines of text of a level page."""
    import cv2

    wanted = _DPI / 72
    small = cv2.resize(grey, None, fx=wanted / scale, fy=wanted / scale, interpolation=cv2.INTER_AREA)
    boxes = [line.box for line in _lines(_pieces(ink_of(small), wanted)[1], wanted)]
    likely = [box for box in boxes if 5 < box[3] - box[1] < 20 and box[2] - box[0] > 4 * (box[3] - box[1])]
    return sorted(likely, key=lambda box: box[0] - box[2])[:most]


def _pieces(ink: Any, scale: float) -> tuple[list[Mark], Any]:
    """What is no letter as marks, and a picture of the rest."""
    import cv2
    import numpy as np

    run, block = round(_RUN * scale), round(_BLOCK * scale)
    straight = _opened(ink, (run, 1)) | _opened(ink, (1, run))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    level, blocks = (
        np.bincount(labels[part > 0], minlength=len(stats)) for part in (straight, _opened(ink, (block, block)))
    )
    marks, drawn = [], np.zeros(len(stats), bool)
    for number, (left, top, width, height, area) in enumerate(stats.tolist()):
        if number == 0 or width * height > _MOST_OF_PAGE * ink.size or _is_letters(width, height, area, scale):
            continue
        drawn[number] = True
        solid = area > _SOLID * width * height and min(width, height) > _THIN * scale
        bars = not solid and blocks[number] > 0.3 * area
        plain = solid or (level[number] > _STRAIGHT * area and not bars)
        marks.append(Mark(_points((left, top, left + width, top + height), scale), plain, filled=solid))
    return marks, np.where(drawn[labels], 0, ink).astype(np.uint8)


def _is_letters(width: float, height: float, area: float, scale: float) -> bool:
    if height > _LETTER * scale:
        return False
    rule = width > _LONG * scale and height < _THIN * scale
    slope = width > 3 * _LONG * scale and area < _EMPTY * width * height
    return not (rule or slope)


def _opened(ink: Any, size: tuple[int, int]) -> Any:
    import cv2

    return cv2.morphologyEx(ink, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_RECT, size))


def _lines(letters: Any, scale: float) -> list[Line]:
    """Letters that follow each other, with no text: it is their place that counts."""
    import cv2

    near = cv2.getStructuringElement(cv2.MORPH_RECT, (round(8 * scale), 1))
    joined = cv2.morphologyEx(letters, cv2.MORPH_CLOSE, near)
    _, _, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    sides = [(left, top, left + width, top + height) for left, top, width, height, _ in stats[1:].tolist()]
    return [Line(_points(box, scale), "") for box in sides if box[3] - box[1] > 3 * scale]


def _points(box: tuple[int, int, int, int], scale: float) -> Box:
    left, top, right, bottom = box
    return left / scale, top / scale, right / scale, bottom / scale
