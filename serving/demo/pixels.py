from __future__ import annotations

import math

from PIL import Image

PATCH = 16
MERGE = 2
FACTOR = PATCH * MERGE
MIN_PIXELS = 192 * 256
MAX_PIXELS = 288 * 256


def fitted_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) in pixels at which the model sees an image: multiples of 32, area in the policy's bounds.

    The arithmetic of the Qwen-VL image processor for `size.shortest_edge = MIN_PIXELS` and
    `size.longest_edge = MAX_PIXELS`.
    """
    rows, columns = round(height / FACTOR) * FACTOR, round(width / FACTOR) * FACTOR
    if rows * columns > MAX_PIXELS:
        shrink = math.sqrt(height * width / MAX_PIXELS)
        rows, columns = (max(FACTOR, math.floor(side / shrink / FACTOR) * FACTOR) for side in (height, width))
    elif rows * columns < MIN_PIXELS:
        grow = math.sqrt(MIN_PIXELS / (height * width))
        rows, columns = (math.ceil(side * grow / FACTOR) * FACTOR for side in (height, width))
    return columns, rows


def fit(image: Image.Image) -> Image.Image:
    """`image` resampled to its `fitted_size`, as the processor does it."""
    return image.resize(fitted_size(image.width, image.height), Image.Resampling.BICUBIC)
