from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from PIL import Image, ImageDraw

from serving.demo.charts.fonts import Face, advance, require_glyphs, text_width

Color = tuple[int, int, int]


class Role(IntEnum):
    OTHER = 0
    PERIOD = 1
    VALUE = 2
    GROWTH = 3


@dataclass(frozen=True)
class Label:
    """One piece of text in an image. Positions in pixels of that image.

    `characters` are (x, y, character) of the centres of the printed characters; `x`, `y` is the centre
    of the whole. `reading` is what a reader must answer for it: digits, point and sign alone.
    """

    x: float
    y: float
    role: Role
    index: int
    reading: str
    characters: tuple[tuple[float, float, str], ...] = ()

    def scaled(self, fx: float, fy: float) -> Label:
        placed = tuple((x * fx, y * fy, c) for x, y, c in self.characters)
        return Label(self.x * fx, self.y * fy, self.role, self.index, self.reading, placed)


@dataclass(frozen=True)
class Drawing:
    image: Image.Image
    labels: tuple[Label, ...]


class Canvas:
    """An RGB image that remembers where each character was drawn. Lengths are in its pixels."""

    def __init__(self, width: int, height: int, background: Color) -> None:
        self.width, self.height = width, height
        self.image = Image.new("RGB", (width, height), background)
        self.draw = ImageDraw.Draw(self.image)
        self.labels: list[Label] = []

    def text(
        self,
        x: float,
        y: float,
        text: str,
        face: Face,
        size: float,
        color: Color,
        *,
        anchor: str = "m",
        angle: float = 0.0,
        role: Role = Role.OTHER,
        index: int = 0,
        reading: str = "",
    ) -> None:
        """Writes `text` with its left, middle or right (`anchor` l, m, r) at x and its vertical middle at y.

        `angle` turns it counter-clockwise, in degrees, about that point.
        """
        require_glyphs(face, text)
        pixels = max(6, round(size))
        width = text_width(face, pixels, text)
        shift = {"l": 0.0, "m": -width / 2, "r": -width}[anchor]
        if angle:
            self._turned(x, y, text, face, pixels, color, shift, angle)
        else:
            x = min(max(x, 1 - shift), self.width - 1 - width - shift)
            self.draw.text((x + shift, y), text, font=face.at(pixels), fill=color, anchor="lm")
        self._remember(x, y, text, face, pixels, shift, angle, role, index, reading)

    def _turned(
        self, x: float, y: float, text: str, face: Face, pixels: int, color: Color, shift: float, angle: float
    ) -> None:
        side = 2 * math.ceil(max(abs(shift), text_width(face, pixels, text) + shift) + pixels)
        mask = Image.new("L", (side, side), 0)
        ImageDraw.Draw(mask).text((side / 2 + shift, side / 2), text, font=face.at(pixels), fill=255, anchor="lm")
        mask = mask.rotate(angle, Image.Resampling.BICUBIC)
        self.image.paste(color, (round(x - side / 2), round(y - side / 2)), mask)

    def _remember(
        self,
        x: float,
        y: float,
        text: str,
        face: Face,
        pixels: int,
        shift: float,
        angle: float,
        role: Role,
        index: int,
        reading: str,
    ) -> None:
        along, across = math.cos(math.radians(angle)), -math.sin(math.radians(angle))
        offset, characters = shift, []
        for character in text:
            step = advance(face, pixels, character)
            middle = offset + step / 2
            if character != " ":
                characters.append((x + middle * along, y + middle * across, character))
            offset += step
        middle = (shift + offset) / 2
        self.labels.append(Label(x + middle * along, y + middle * across, role, index, reading, tuple(characters)))

    def mark(self, part: str, reading: str) -> None:
        """Labels the middle of `part` in the text written last, as something to read of its own."""
        label = self.labels[-1]
        text = "".join(character for _, _, character in label.characters)
        begin = text.find(part.replace(" ", ""))
        if begin >= 0:
            places = label.characters[begin : begin + len(part)]
            x, y = sum(place[0] for place in places), sum(place[1] for place in places)
            self.labels.append(Label(x / len(places), y / len(places), Role.OTHER, 0, reading))

    def finish(self) -> Drawing:
        return Drawing(self.image, tuple(self.labels))
