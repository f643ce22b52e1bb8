from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFont

Language = str

# File names, each with the index of its simplified Chinese (or only) face.
CHINESE = {
    "NotoSansCJK-Regular.ttc": 2,
    "NotoSansCJK-Bold.ttc": 2,
    "NotoSansCJKsc-Regular.otf": 0,
    "wqy-zenhei.ttc": 0,
    "wqy-microhei.ttc": 0,
}
LATIN = {
    "DejaVuSans.ttf": 0,
    "DejaVuSans-Bold.ttf": 0,
    "DejaVuSerif.ttf": 0,
    "DejaVuSansCondensed.ttf": 0,
    "LiberationSans-Regular.ttf": 0,
    "LiberationSans-Bold.ttf": 0,
    "LiberationSerif-Regular.ttf": 0,
    "LiberationMono-Regular.ttf": 0,
}
SYSTEM_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path.home() / ".fonts")
PACKAGE_FOLDERS = {"matplotlib": "mpl-data/fonts/ttf", "mplfonts": "fonts"}


class FontError(RuntimeError):
    """No installed font can draw a text; the message says what to install."""


@dataclass(frozen=True)
class Face:
    path: Path
    index: int
    chinese: bool

    def at(self, size: int) -> ImageFont.FreeTypeFont:
        return load(self, size)


@functools.lru_cache(maxsize=4096)
def load(face: Face, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(face.path, size, index=face.index, layout_engine=ImageFont.Layout.BASIC)


def font_folders() -> Iterator[Path]:
    yield from SYSTEM_FOLDERS
    for package, inside in PACKAGE_FOLDERS.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin:
            yield Path(spec.origin).parent / inside


def find_faces(folders: Iterable[Path], names: dict[str, int], chinese: bool) -> tuple[Face, ...]:
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.[to]t[fc]")) if folder.is_dir() else ():
            found.setdefault(path.name, path)
    return tuple(Face(found[name], index, chinese) for name, index in names.items() if name in found)


@functools.cache
def installed(language: Language) -> tuple[Face, ...]:
    """Faces that can write `language` ("zh" or "en"), in the order of the declared list.

    Raises FontError when there is none.
    """
    folders = tuple(font_folders())
    faces = find_faces(folders, CHINESE, chinese=True)
    if language != "zh":
        faces += find_faces(folders, LATIN, chinese=False)
    if not faces:
        wanted = "a Chinese font: pip install mplfonts" if language == "zh" else "a font: pip install matplotlib"
        raise FontError(f"no font found that can write {language!r}; install {wanted}")
    return faces


@functools.lru_cache(maxsize=65536)
def has_glyph(face: Face, character: str) -> bool:
    font = face.at(24)
    drawn, missing = font.getmask(character), font.getmask("\U0010fffe")
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


def require_glyphs(face: Face, text: str) -> None:
    """Raises FontError if `face` would draw an empty box for a character of `text`."""
    missing = "".join(sorted({c for c in text if not c.isspace() and not has_glyph(face, c)}))
    if missing:
        raise FontError(f"{face.path.name} has no glyph for {missing!r}; install a font that has: pip install mplfonts")


@functools.lru_cache(maxsize=65536)
def advance(face: Face, size: int, character: str) -> float:
    return face.at(size).getlength(character)


def text_width(face: Face, size: int, text: str) -> float:
    """Width in pixels without kerning, as `Canvas` draws it."""
    return sum(advance(face, size, character) for character in text)
