"""Text of an image with a box for every character, by RapidOCR's PP-OCRv6 (models inside its wheel)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

_SIDE = 2000
"""Longer sides are scaled down to this before text is looked for."""
_TILE, _OVERLAP = 2000, 500
_TILED_FROM = 4000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text: its corners clockwise from the beginning of the text, and one quad for each character."""

    text: str
    score: float
    quad: NDArray[np.float64]
    chars: list[NDArray[np.float64]]

    @property
    def height(self) -> float:
        return float(np.linalg.norm(self.quad[3] - self.quad[0]) + np.linalg.norm(self.quad[2] - self.quad[1])) / 2

    @property
    def angle(self) -> float:
        along = self.quad[1] - self.quad[0]
        return math.atan2(along[1], along[0])


class Reader:
    """Reads images in this process; about 600 MB and one second to load.

    Args:
        threads: of one reading.
    """

    def __init__(self, threads: int = 1) -> None:
        from rapidocr import RapidOCR

        engine: Any = RapidOCR(
            params={
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Global.log_level": "critical",
                "Global.max_side_len": _SIDE,
                # Lines that are seen and not understood are kept: what cannot be read cannot be let through.
                "Global.text_score": 0.0,
            }
        )
        engine.update_params(return_word_box=True, return_single_char_box=True)
        self._engine = engine

    def read(self, pixels: Pixels) -> list[Line]:
        """Lines of an RGB image, whichever way up it is; quads in its own pixels."""
        lines, flipped = self._upright(pixels)
        if turns := _turns(lines, flipped):
            turned = np.ascontiguousarray(np.rot90(pixels, turns))
            again, flipped = self._upright(turned)
            if _turns(again, flipped) == 2:
                turns, turned = (turns + 2) % 4, np.ascontiguousarray(np.rot90(turned, 2))
                again, flipped = self._upright(turned)
            return [_turned_back(_whole(line, flip), turns, turned.shape) for line, flip in _pairs(again, flipped)]
        return [_whole(line, flip) for line, flip in _pairs(lines, flipped)]

    def _upright(self, pixels: Pixels) -> tuple[list[Line], list[bool]]:
        found = list(self._look(pixels))
        for left, top in _tiles(pixels):
            tile = pixels[top : top + _TILE, left : left + _TILE]
            found += [(_moved(line, left, top), flip) for line, flip in self._look(np.ascontiguousarray(tile))]
        return [line for line, _ in found], [flip for _, flip in found]

    def _look(self, pixels: Pixels) -> Iterator[tuple[Line, bool]]:
        engine = self._engine
        bgr = np.ascontiguousarray(pixels[:, :, ::-1])
        image, steps = engine.preprocess_img(bgr)
        found, turned, words, crops = engine.run_ocr_steps(image, steps)
        if found.boxes is None:
            return
        flips = [label == "180" for label, _ in turned.cls_res or []]
        texts = list(words.txts or [""] * len(found.boxes))
        read = [index for index, text in enumerate(texts) if text.strip()]
        blank = [index for index in range(len(found.boxes)) if index not in set(read)]
        boxes = found.boxes.copy()
        result = engine.build_final_output(bgr, found, turned, words, crops, steps) if read else None
        ratio = steps["preprocess"]
        for index in blank:
            quad = np.asarray(boxes[index], float) * (ratio["ratio_w"], ratio["ratio_h"])
            yield Line("", 0.0, quad - _padding(steps), []), False
        if result is None or result.boxes is None:
            return
        aligned = result.word_results is not None and len(result.word_results) == len(result.txts)
        for at, (index, text, score, quad) in enumerate(
            zip(read, result.txts, result.scores, result.boxes, strict=True)
        ):
            quad = np.asarray(quad, float)
            chars = _characters(text, result.word_results[at] if aligned else (), quad)
            yield Line(text, float(score), quad, chars), index < len(flips) and flips[index]


def _padding(steps: dict[str, Any]) -> NDArray[np.float64]:
    padding, ratio = steps.get("padding_1", {"left": 0, "top": 0}), steps["preprocess"]
    return np.array([padding["left"] * ratio["ratio_w"], padding["top"] * ratio["ratio_h"]], float)


def _tiles(pixels: Pixels) -> Iterator[tuple[int, int]]:
    """Corners of overlapping tiles of an image that loses its small print when it is scaled down as a whole."""
    height, width = pixels.shape[:2]
    if max(height, width) <= _TILED_FROM:
        return
    step = _TILE - _OVERLAP
    for top in range(0, max(height - _OVERLAP, 1), step):
        for left in range(0, max(width - _OVERLAP, 1), step):
            yield left, top


def _moved(line: Line, left: int, top: int) -> Line:
    shift = np.array([left, top], float)
    return Line(line.text, line.score, line.quad + shift, [quad + shift for quad in line.chars])


def _characters(text: str, words: Any, quad: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """A quad for each character; where the engine gives none, such as for blanks, its share of the line."""
    shares = _shares(len(text), quad)
    rest = iter(words)
    current = next(rest, None)
    for index, letter in enumerate(text):
        if current is not None and current[0] == letter:
            shares[index] = np.asarray(current[2], float)
            current = next(rest, None)
    return shares


def _shares(count: int, quad: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    top, bottom = quad[1] - quad[0], quad[2] - quad[3]
    edges = [(quad[0] + top * at / count, quad[3] + bottom * at / count) for at in range(count + 1)]
    return [np.array([a[0], b[0], b[1], a[1]]) for a, b in pairwise(edges)]


def _turns(lines: list[Line], flipped: list[bool]) -> int:
    """Quarter turns counter-clockwise that put most of the text upright: 0, 1 or 2."""
    weights = [len(line.text) for line in lines]
    tall = sum(weight for weight, line in zip(weights, lines, strict=True) if _is_tall(line))
    upside_down = sum(weight for weight, flip in zip(weights, flipped, strict=True) if flip)
    if tall > sum(weights) / 2:
        return 1
    return 2 if upside_down > sum(weights) / 2 else 0


def _pairs(lines: list[Line], flipped: list[bool]) -> Iterator[tuple[Line, bool]]:
    return zip(lines, flipped, strict=True)


def _whole(line: Line, flipped: bool) -> Line:
    """A line that runs another way than the page: where its characters are is not known, only where the line is."""
    if flipped or _is_tall(line):
        return Line(line.text, line.score, line.quad, [line.quad] * len(line.text))
    return line


def _is_tall(line: Line) -> bool:
    return len(line.text) > 1 and line.height > 1.5 * float(np.linalg.norm(line.quad[1] - line.quad[0]))


def _turned_back(line: Line, turns: int, shape: tuple[int, ...]) -> Line:
    height, width = shape[:2]

    def back(quad: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = quad[:, 0], quad[:, 1]
        places = {1: (height - y, x), 2: (width - x, height - y), 3: (y, width - x)}
        return np.stack(places[turns], axis=1)

    return Line(line.text, line.score, back(line.quad), [back(quad) for quad in line.chars])


def slant(lines: list[Line]) -> float:
    """The angle of most of the text, radians clockwise."""
    angles = [line.angle for line in lines if len(line.text) > 2 and not _is_tall(line)]
    return median(angles) if angles else 0.0
