from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from client import buckets, manifests, pages
from client.errors import ConfigurationError, UnusableImage
from client.images import display
from client.questions import Question

URLS = ("http://", "https://", "oss://")


def natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sort key that puts `chart-2` before `chart-10`, and digits before letters."""
    parts = re.findall(r"\d+|\D+", name.casefold())
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in parts], name


def check_sources(sources: Sequence[str]) -> None:
    """Refuses sources that can hold nothing.

    Raises:
        ConfigurationError: a missing path, a pattern without a match, a folder without a file.
    """
    for source in sources:
        if source.startswith((*URLS, buckets.SCHEME)):
            continue
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


def questions(sources: Sequence[str], prompt: str = "", exclude: Collection[Path] = ()) -> Iterator[Question]:
    """What a batch asks: everything that the sources hold, one by one, as they are found.

    Args:
        sources: any mix of folders, files, patterns, `https://` URLs, `s3://bucket/prefix`, and CSV or JSONL manifests
            that are named outright. A PDF, wherever it is found, is one question per page.
        prompt: for manifests, with their columns in braces.
        exclude: files never to be asked about.

    Raises:
        ConfigurationError: a manifest or a bucket that cannot be read at all.
    """
    seen = {path.absolute() for path in exclude}
    for source in sources:
        if source.startswith(URLS):
            yield Question(source, (source,))
        elif source.startswith(buckets.SCHEME):
            yield from (Question(found.name, (found,)) for found in buckets.objects(source))
        elif manifests.is_manifest(source) and Path(source).is_file():
            yield from manifests.rows(Path(source), prompt)
        else:
            for path in walk([source], seen):
                if len(sources) > 1:
                    seen.add(path.absolute())
                yield from _about(path)


def _about(path: Path) -> Iterator[Question]:
    if path.suffix.lower() != ".pdf":
        yield Question(display(path), (path,))
        return
    try:
        for page in pages.pages(path):
            yield Question(page.name, (page,))
    except UnusableImage as error:
        yield Question(display(path), (path,), problem=error.message)
