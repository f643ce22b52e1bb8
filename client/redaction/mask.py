"""Pixels: which area covers a finding, painting it over, and a picture that shows what would be painted."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from client.redaction.find import Sensitive
from client.redaction.ocr import Pixels

_ALONG, _ACROSS = 0.5, 0.15
"""Padding in heights of the text: boxes of characters are an estimate along the line, and tight across it."""
_LEAST = 3.0
_INK = (0, 0, 0)
_COLORS = {
    "name": (220, 60, 60), "id_number": (190, 60, 190), "phone": (40, 120, 220), "bank_card": (230, 130, 20),
    "account": (160, 110, 40), "email": (30, 150, 120), "unreadable": (110, 110, 110),
}  # fmt: skip


def area(item: Sensitive) -> NDArray[np.int32]:
    """The polygon that covers a finding with padding: four corners in pixels."""
    first, last = item.quads[0], item.quads[-1]
    height = max(float(np.linalg.norm(first[3] - first[0])), float(np.linalg.norm(last[2] - last[1])), 1.0)
    if len(item.quads) > 1 and item.quads[0] is item.quads[-1]:
        height = min(height, float(np.linalg.norm(first[1] - first[0])))
    rectangle = cv2.minAreaRect(np.concatenate(item.quads).astype(np.float32))
    corners = cv2.boxPoints(_padded(rectangle, height))
    return np.asarray(np.rint(corners), np.int32)


def _padded(
    rectangle: tuple[Sequence[float], Sequence[float], float], height: float
) -> tuple[Sequence[float], tuple[float, float], float]:
    middle, (width, tall), angle = rectangle
    along, across = max(_ALONG * height, _LEAST), max(_ACROSS * height, _LEAST)
    sideways = width >= tall
    return middle, (width + 2 * (along if sideways else across), tall + 2 * (across if sideways else along)), angle


def masked(pixels: Pixels, areas: Sequence[NDArray[np.int32]]) -> Pixels:
    """A copy with every area painted over."""
    copy = pixels.copy()
    for corners in areas:
        cv2.fillConvexPoly(copy, corners, _INK)
    return copy


def share(shape: tuple[int, ...], areas: Sequence[NDArray[np.int32]]) -> float:
    """The part of the image that these areas cover together, 0 to 1."""
    cover = np.zeros(shape[:2], np.uint8)
    for corners in areas:
        cv2.fillConvexPoly(cover, corners, 1)
    return float(cover.mean())


def preview(pixels: Pixels, items: Sequence[Sensitive]) -> Pixels:
    """A copy with every area outlined and named; what lies below stays readable."""
    copy, tint = pixels.copy(), pixels.copy()
    for item in items:
        cv2.fillConvexPoly(tint, area(item), _COLORS[item.kind])
    cv2.addWeighted(tint, 0.3, copy, 0.7, 0, dst=copy)
    for item in items:
        corners = area(item)
        cv2.polylines(copy, [corners], True, _COLORS[item.kind], 2)
        left, top = corners.min(0)
        place = (int(left), max(int(top) - 4, 12))
        cv2.putText(copy, item.kind, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, _COLORS[item.kind], 1, cv2.LINE_AA)
    return copy


def box(corners: NDArray[np.int32], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Left, top, width and height in pixels, inside the image."""
    height, width = shape[:2]
    left, top = np.maximum(corners.min(0), 0)
    right, bottom = np.minimum(corners.max(0) + 1, (width, height))
    return int(left), int(top), max(int(right - left), 0), max(int(bottom - top), 0)
