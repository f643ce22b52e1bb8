from __future__ import annotations

import functools
import importlib.util
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.errors import ConfigurationError

CHINESE = "NotoSansCJKsc-Regular.otf"
LATIN = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSans-Bold.ttf")
_MAX_ERROR = 1.0
"""Font units by which a quadratic outline may leave the cubic one: a thousandth of the letter's height."""


@dataclass(frozen=True)
class Fonts:
    """Files of TrueType fonts: `chinese` writes Chinese and Latin, `latin` are to choose from for English charts."""

    chinese: Path
    latin: tuple[Path, ...]


def fonts(characters: str) -> Fonts:
    """What a report that uses `characters` is written with.

    Raises:
        ConfigurationError: the packages of the extra `demo` that bring the fonts are missing.
    """
    return Fonts(_truetype("".join(sorted(set(characters)))), tuple(_packaged("matplotlib", each) for each in LATIN))


def _packaged(package: str, name: str) -> Path:
    folder = {"matplotlib": "mpl-data/fonts/ttf", "mplfonts": "fonts"}[package]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        raise ConfigurationError(f"sample reports need the fonts of {package}: pip install 'homescope[demo]'")
    return Path(spec.origin).parent / folder / name


@functools.lru_cache(maxsize=4)
def _truetype(characters: str) -> Path:
    """The Chinese font cut to `characters`, with TrueType outlines: reportlab reads no others, and matplotlib keeps
    text as text in a PDF for these alone."""
    path = Path(tempfile.mkdtemp(prefix="homescope-fonts-")) / "NotoSansSC.ttf"
    path.write_bytes(_converted(_packaged("mplfonts", CHINESE), characters))
    return path


def _converted(source: Path, characters: str) -> bytes:
    from fontTools.subset import Options, Subsetter  # type: ignore[import-untyped]
    from fontTools.ttLib import TTFont  # type: ignore[import-untyped]

    stream = io.BytesIO()
    with TTFont(source, lazy=True) as font:
        cut = Subsetter(Options(layout_features=[], hinting=False, notdef_outline=True, name_IDs=[1, 2, 4, 6]))
        cut.populate(text=characters)
        cut.subset(font)
        _use_quadratic_outlines(font)
        font.save(stream)
    return stream.getvalue()


def _use_quadratic_outlines(font: Any) -> None:
    from fontTools.ttLib import newTable

    order, outlines = font.getGlyphOrder(), _quadratic(font)
    font["loca"], font["glyf"] = newTable("loca"), newTable("glyf")
    font["glyf"].glyphOrder, font["glyf"].glyphs = order, outlines
    font["glyf"].compile(font)
    for table in ("CFF ", "VORG"):
        if table in font:
            del font[table]
    limits = font["maxp"]
    limits.tableVersion = 0x00010000
    for name in ("maxTwilightPoints", "maxStorage", "maxFunctionDefs", "maxInstructionDefs", "maxStackElements",
                 "maxSizeOfInstructions", "maxComponentElements"):  # fmt: skip
        setattr(limits, name, 0)
    limits.maxZones = 1
    limits.recalc(font)
    font["head"].glyphDataFormat = 0
    font["post"].formatType = 3.0
    font.sfntVersion = "\000\001\000\000"


def _quadratic(font: Any) -> dict[str, Any]:
    from fontTools.pens.cu2quPen import Cu2QuPen  # type: ignore[import-untyped]
    from fontTools.pens.ttGlyphPen import TTGlyphPen  # type: ignore[import-untyped]

    letters, outlines = font.getGlyphSet(), {}
    for name in font.getGlyphOrder():
        pen = TTGlyphPen(None)
        letters[name].draw(Cu2QuPen(pen, _MAX_ERROR, reverse_direction=True))
        outlines[name] = pen.glyph()
    return outlines
