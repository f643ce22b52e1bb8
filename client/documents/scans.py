from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from client.documents.models import Box
from client.documents.regions import Line, Region, caption_of, overlap

LAYOUT_DPI = 100
"""At 72 dpi the layout model takes a paragraph for a figure now and then; above 100 it finds no more."""
MIN_SCORE = 0.5
_STRIP = 34.0


def find_scanned(picture: Any, scale: float) -> list[Region]:
    """Figures and tables in the picture of a page, with the captions that OCR reads beside them.

    Args:
        picture: RGB array, height x width x 3.
        scale: its pixels to a point.
    """
    regions: list[Region] = []
    for region in detected(picture, scale):
        lines = _lines_around(picture, scale, region.box)
        caption = caption_of(region.box, region.kind, lines)
        regions.append(replace(region, box=_without(region.box, caption, lines), caption=caption))
    return regions


def detected(picture: Any, scale: float) -> list[Region]:
    """What the layout model sees, the likelier of two that overlap."""
    import numpy as np

    seen = _layout()(np.ascontiguousarray(picture[:, :, ::-1]))
    found: list[tuple[float, Region]] = []
    for box, name, score in zip(seen.boxes, seen.class_names, seen.scores, strict=True):
        if name in ("figure", "table") and score >= MIN_SCORE:
            left, top, right, bottom = (float(side) / scale for side in box)
            found.append((float(score), Region((left, top, right, bottom), name)))
    kept: list[Region] = []
    for _, region in sorted(found, key=lambda each: -each[0]):
        if all(overlap(region.box, other.box) < 0.3 for other in kept):
            kept.append(region)
    return sorted(kept, key=lambda region: region.box[1])


def _lines_around(picture: Any, scale: float, box: Box) -> list[Line]:
    """Text in a strip over and one under a box, from a little inside it: the model's boxes often hold the caption."""
    height = picture.shape[0] / scale
    strips = [(box[1] - _STRIP, box[1] + 6.0), (box[3] - _STRIP / 1.5, box[3] + _STRIP)]
    lines = []
    for top, bottom in strips:
        top, bottom = max(top, 0.0), min(bottom, height)
        left, right = max(box[0] - 20.0, 0.0), box[2] + 20.0
        part = picture[int(top * scale) : int(bottom * scale), int(left * scale) : int(right * scale)]
        lines += [
            Line((left + x0 / scale, top + y0 / scale, left + x1 / scale, top + y1 / scale), text)
            for (x0, y0, x1, y1), text in _read(part)
        ]
    return lines


def _read(part: Any) -> list[tuple[Box, str]]:
    if min(part.shape[:2]) < 8:
        return []
    answer = _ocr()(part[:, :, ::-1])
    if answer.boxes is None or answer.txts is None:
        return []
    return [
        ((float(box[:, 0].min()), float(box[:, 1].min()), float(box[:, 0].max()), float(box[:, 1].max())), text)
        for box, text in zip(answer.boxes, answer.txts, strict=True)
    ]


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


@cache
def _ocr() -> Any:
    from rapidocr import RapidOCR

    # By default a strip is scaled up until its short side has 736 pixels, which takes ten times as long.
    return RapidOCR(params={"Det.limit_type": "max", "Det.limit_side_len": 960, "Global.log_level": "error"})
