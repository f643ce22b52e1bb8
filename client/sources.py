from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.errors import ConfigurationError, UnusableImage
from client.images import read
from client.models import Skipped


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a batch: its name, its bytes and their SHA-256 (hexadecimal)."""

    file: str
    data: bytes
    digest: str


def natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sort key that puts `chart-2` before `chart-10`, and digits before letters."""
    parts = re.findall(r"\d+|\D+", name.casefold())
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in parts], name


def display(path: Path) -> str:
    """The name used in results: as given, with bytes that are not UTF-8 written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def check_sources(sources: Sequence[str]) -> None:
    """Refuses sources that can hold nothing.

    Raises:
        ConfigurationError: a missing path, a pattern without a match, a folder without a file.
    """
    for source in sources:
        if not _exists(source) and not _matches(source):
            what = "nothing matches" if glob.has_magic(source) else "no such file or folder:"
            raise ConfigurationError(f"{what} {source}; check the spelling and the current folder")
        if Path(source).is_dir():
            if not os.access(source, os.R_OK | os.X_OK):
                raise ConfigurationError(f"the folder {source} cannot be read: permission denied")
            if next(walk([source]), None) is None:
                raise ConfigurationError(f"the folder {source} is empty: put images into it or name another one")


def _exists(source: str) -> bool:
    try:
        return Path(source).exists()
    except OSError as error:
        raise ConfigurationError(f"{source[:80]} cannot be looked at: {error.strerror}") from error


def walk(sources: Sequence[str], exclude: Collection[Path] = ()) -> Iterator[Path]:
    """Files of folders (all levels), patterns and single paths, in natural order, each once, as they are found.

    Hidden files and folders are passed over unless named outright. `exclude`: files never to be returned.
    """
    seen = {path.absolute() for path in exclude}
    for source in sources:
        for path in _expand(source):
            absolute = path.absolute()
            if absolute not in seen:
                seen.add(absolute)
                yield path


def _expand(source: str) -> Iterator[Path]:
    path = Path(source)
    if not path.exists() and _matches(source):
        for match in _matches(source):
            yield from _expand(glob.escape(match)) if Path(match).is_dir() else [Path(match)]
    elif path.is_dir():
        yield from _folder(path)
    else:
        yield path


def _matches(pattern: str) -> list[str]:
    """Path.glob would refuse absolute patterns."""
    return sorted(glob.glob(pattern, recursive=True), key=natural) if glob.has_magic(pattern) else []  # noqa: PTH207


def _folder(folder: Path) -> Iterator[Path]:
    unreadable: list[OSError] = []
    for where, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural)
        for name in sorted((name for name in files if not name.startswith(".")), key=natural):
            yield Path(where, name)
    # Left for `load`, which says why: images must not be left out without a word.
    yield from (Path(error.filename) for error in unreadable)


def load(path: Path) -> Item | Skipped:
    """Reads one file. Whatever cannot be asked about comes back as `Skipped` with the reason."""
    try:
        data = read(path)
    except UnusableImage as error:
        return Skipped(display(path), error.message)
    return Item(display(path), data, hashlib.sha256(data).hexdigest())
