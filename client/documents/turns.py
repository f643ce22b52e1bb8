"""How a scanned page lies: which way up, and how far askew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from client.documents.ink import ink_of
from client.documents.models import Box

_DPI = 50
_MOST_TILT, _STEP = 3.0, 0.25
_WORTH_IT = 0.2
"""Degrees; a page less askew is taken as it is."""
_CLEARLY = 1.3


@dataclass(frozen=True, slots=True)
class Upright:
    """A scanned page put right.

    Attributes:
        picture: RGB array, turned and straightened.
        scale: its pixels to a point.
        turned: quarter turns that this took, in degrees clockwise.
        tilt: what was straightened after it, in degrees clockwise.
    """

    picture: Any
    scale: float
    turned: int = 0
    tilt: float = 0.0

    def shown(self, box: Box) -> Box:
        """The outline of a box of this picture on the page as it is shown, both in points."""
        height, width = (side / self.scale for side in self.picture.shape[:2])
        sine, cosine = math.sin(math.radians(-self.tilt)), math.cos(math.radians(-self.tilt))
        corners = [(x - width / 2, y - height / 2) for x in (box[0], box[2]) for y in (box[1], box[3])]
        points = [(x * cosine - y * sine, x * sine + y * cosine) for x, y in corners]
        for _ in range(-self.turned // 90 % 4):
            points, width, height = [(-y, x) for x, y in points], height, width
        across, down = zip(*points, strict=True)
        return min(across) + width / 2, min(down) + height / 2, max(across) + width / 2, max(down) + height / 2


def upright(picture: Any, scale: float) -> Upright:
    """Turns a page so that its lines of text are level and read from the left, and straightens it.

    Args:
        picture: RGB array, height x width x 3.
        scale: its pixels to a point.
    """
    import cv2
    import numpy as np

    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    size = _DPI / 72 / scale
    ink = ink_of(cv2.resize(grey, None, fx=size, fy=size, interpolation=cv2.INTER_AREA))
    tilt, level = _tilt(ink)
    across, upended = _tilt(np.rot90(ink))
    turned = 0
    if upended > _CLEARLY * level:
        picture, tilt, turned = np.rot90(picture), across, 270
    straight = _straightened(picture, tilt)
    if is_upside_down(straight, scale):
        straight, turned = np.rot90(straight, 2), (turned + 180) % 360
    return Upright(np.ascontiguousarray(straight), scale, turned, tilt if straight is not picture else 0.0)


def _straightened(picture: Any, tilt: float) -> Any:
    import cv2

    if abs(tilt) < _WORTH_IT:
        return picture
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), -tilt, 1.0)
    return cv2.warpAffine(picture, turn, (width, height), flags=cv2.INTER_LINEAR, borderValue=(255, 255, 255))


def _tilt(ink: Any) -> tuple[float, float]:
    """Degrees clockwise that level the lines, and how level these are then: rows change most between lines."""
    import cv2
    import numpy as np

    height, width = ink.shape
    best = (0.0, -1.0)
    for step in range(-round(_MOST_TILT / _STEP), round(_MOST_TILT / _STEP) + 1):
        angle = step * _STEP
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), -angle, 1.0)
        rows = cv2.warpAffine(ink, turn, (width, height)).sum(axis=1, dtype=np.float64)
        level = float((np.diff(rows) ** 2).sum())
        if level > best[1]:
            best = angle, level
    return best


def is_upside_down(picture: Any, scale: float) -> bool:
    """Whether most lines of text of a level page stand on their heads, as the OCR's classifier of lines says."""
    import cv2

    from client.documents.ink import text_lines
    from client.documents.ocr import upside_down

    # The classifier squeezes a longer part until its letters cannot be told.
    boxes = [
        (left, top - 2, min(right, left + 8 * (bottom - top)), bottom + 2)
        for left, top, right, bottom in text_lines(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), scale)
    ]
    cut = [tuple(max(round(side * scale), 0) for side in box) for box in boxes]
    parts = [picture[top:bottom, left:right] for left, top, right, bottom in cut]
    return sum(upside_down(cv2.medianBlur(part.copy(), 3)) for part in parts if part.size) > 0
