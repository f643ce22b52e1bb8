from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from client.documents.ink import inked
from client.documents.models import Box
from client.documents.ocr import read_lines
from client.documents.regions import Line, Region, caption_of, overlap, shared
from client.documents.turns import upright

LAYOUT_DPI = 100
"""At 72 dpi the layout model takes a paragraph for a figure now and then; above 100 it finds no more."""
SCAN_DPI = 200
"""Letters of a caption are read from this."""
MIN_SCORE = 0.5
_STRIP, _ASIDE = 34.0, 60.0
_PART = 0.25


def find_scanned(picture: Any, scale: float) -> tuple[list[Region], int]:
    """Figures and tables in the picture of a page, with the captions that OCR reads beside them.

    Args:
        picture: RGB array, height x width x 3.
        scale: its pixels to a point.

    Returns:
        The regions, boxes on the page as it is shown, and the quarter turns, in degrees clockwise, that put the page
        upright.
    """
    import cv2

    page = upright(picture, scale)
    found = merged(detected(page.picture, scale), inked(cv2.cvtColor(page.picture, cv2.COLOR_RGB2GRAY), scale))
    regions: list[Region] = []
    for region in found:
        lines = _lines_around(page.picture, scale, region.box)
        caption = caption_of(region.box, region.kind, lines)
        box = _without(region.box, caption, lines)
        regions.append(replace(region, box=page.shown(box), caption=caption))
    return regions, page.turned


def merged(seen: Sequence[Region], ink: Sequence[Region]) -> list[Region]:
    """What the layout model sees and what ink shows. Of the same figure the box of the ink, which is the closer, unless
    it is a small part of the model's; what the model takes for a table is one."""
    regions = list(seen)
    for region in ink:
        same = [each for each in regions if _meet(each.box, region.box)]
        if any(each.kind == "table" or _area(region.box) < _PART * _area(each.box) for each in same):
            continue
        regions = [each for each in regions if each not in same] + [region]
    return sorted(regions, key=lambda region: (region.box[1], region.box[0]))


def _meet(one: Box, other: Box) -> bool:
    return shared(one, other) > 0.5 * min(_area(one), _area(other))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def detected(picture: Any, scale: float) -> list[Region]:
    """What the layout model sees, the likelier of two that overlap."""
    import cv2
    import numpy as np

    size = min(LAYOUT_DPI / 72 / scale, 1.0)
    small = cv2.resize(picture, None, fx=size, fy=size, interpolation=cv2.INTER_AREA)
    answer = _layout()(np.ascontiguousarray(small[:, :, ::-1]))
    found: list[tuple[float, Region]] = []
    for box, name, score in zip(answer.boxes, answer.class_names, answer.scores, strict=True):
        if name in ("figure", "table") and score >= MIN_SCORE:
            left, top, right, bottom = (float(side) / (scale * size) for side in box)
            found.append((float(score), Region((left, top, right, bottom), name)))
    kept: list[Region] = []
    for _, region in sorted(found, key=lambda each: -each[0]):
        if all(overlap(region.box, other.box) < 0.3 for other in kept):
            kept.append(region)
    return sorted(kept, key=lambda region: region.box[1])


def _lines_around(picture: Any, scale: float, box: Box) -> list[Line]:
    """Text in a strip over and one under a box, from a little inside it: the boxes often hold the caption."""
    height = picture.shape[0] / scale
    strips = [(box[1] - _STRIP, box[1] + 6.0), (box[3] - _STRIP / 1.5, box[3] + _STRIP)]
    lines = []
    for top, bottom in strips:
        top, bottom = max(top, 0.0), min(bottom, height)
        left, right = max(box[0] - _ASIDE, 0.0), box[2] + _ASIDE
        part = picture[int(top * scale) : int(bottom * scale), int(left * scale) : int(right * scale)]
        lines += [
            Line((left + x0 / scale, top + y0 / scale, left + x1 / scale, top + y1 / scale), text)
            for (x0, y0, x1, y1), text in read_lines(part)
        ]
    return lines


def _without(box: Box, caption: str, lines: list[Line]) -> Box:
    """The box cut where its own caption begins."""
    left, top, right, bottom = box
    for line in lines:
        if caption and " ".join(line.text.split()) == caption:
            middle = (line.box[1] + line.box[3]) / 2
            if middle > (top + bottom) / 2:
                bottom = min(bottom, line.box[1] - 2.0)
            else:
                top = max(top, line.box[3] + 2.0)
    return left, top, right, bottom


@cache
def _layout() -> Any:
    from rapid_layout import RapidLayout  # type: ignore[import-untyped]

    return RapidLayout(conf_thresh=MIN_SCORE)
