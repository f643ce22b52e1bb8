"""How many tokens an image or a video costs: the arithmetic of the Qwen-VL processors, without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Size: TypeAlias = tuple[int, int]
"""(width, height) in pixels."""

FACTOR = 32
"""Pixels of one token's side: patches of 16, merged two by two."""
ENDS = 2
"""The tokens that enclose an image or a video."""
PAIR = 2
"""Frames that the model reads as one."""
MIN_FRAMES = 4


@dataclass(frozen=True, slots=True)
class Bounds:
    """Pixels, width times height: at least `least`, at most `most`."""

    least: int
    most: int


def grid(size: Size, bounds: Bounds, factor: int = FACTOR) -> Size:
    """The size at which a processor with these bounds sees an image: multiples of `factor`, as alike as possible."""
    return _fitted(size, bounds, factor, frames=1)


def video_grid(size: Size, frames: int, bounds: Bounds, factor: int = FACTOR) -> Size:
    """The size at which a video processor sees each of `frames` frames; its bounds hold for all of them together."""
    width, height = size
    if min(size) < factor:
        scale = max(factor / height, factor / width)
        width, height = int(width * scale), int(height * scale)
    return _fitted((width, height), bounds, factor, frames)


def _fitted(size: Size, bounds: Bounds, factor: int, frames: int) -> Size:
    width, height = size
    columns, rows = round(width / factor) * factor, round(height / factor) * factor
    whole = frames if frames == 1 else round(frames / PAIR) * PAIR
    if whole * rows * columns > bounds.most:
        shrink = math.sqrt(frames * height * width / bounds.most)
        columns, rows = (max(factor, math.floor(side / shrink / factor) * factor) for side in (width, height))
    elif whole * rows * columns < bounds.least:
        grow = math.sqrt(bounds.least / (frames * height * width))
        columns, rows = (math.ceil(side * grow / factor) * factor for side in (width, height))
    return columns, rows


def image_tokens(seen: Size, factor: int = FACTOR) -> int:
    """What an image costs that the model sees at this size, with the two tokens around it."""
    return (seen[0] // factor) * (seen[1] // factor) + ENDS


def video_tokens(frames: int, seen: Size, factor: int = FACTOR) -> int:
    """What so many frames of this size cost, with the two tokens around them."""
    return math.ceil(frames / PAIR) * (seen[0] // factor) * (seen[1] // factor) + ENDS


def frame_count(seconds: float, fps: float, most: int) -> int:
    """How many frames of a file the model is shown: an even number, four at least."""
    wanted = max(MIN_FRAMES, round(seconds * fps))
    return max(MIN_FRAMES, min(wanted, most) // PAIR * PAIR)


def sampled(total: int, count: int) -> Sequence[int]:
    """Indices of `count` of `total` frames at equal distances, the first and the last among them."""
    if count == 1 or total <= 1:
        return [0] * count
    return [round(at * (total - 1) / (count - 1)) for at in range(count)]
