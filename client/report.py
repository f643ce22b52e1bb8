from __future__ import annotations

import base64
import io
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any, TextIO

from PIL import Image, ImageOps

from client.models import Done, Failed, Job, Record, Skipped, Usage, is_copy
from client.pages import Page
from client.scoring import Expected, Score, same
from client.structured import json_in

THUMBNAIL = (760, 560)
"""Pixels: twice what the page shows, for dense screens."""

SHOWN = 100
"""Cards that a browser lays out at first; the others wait as inert templates until one scrolls or filters to them."""

THUMBNAILS_BYTES = 48_000_000
"""All thumbnails together: more would make a page that browsers open slowly. Errors come first, and get theirs."""

_SIZES = ((500, (760, 560)), (5_000, (380, 280)), (50_000, (240, 180)))

_MAX_PIXELS = 50_000_000
_ORDER = ("failed", "wrong", "skipped", "done", "right")
_LINE = 60
_UNKNOWN, _MISSING = object(), object()


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of a page: records by kind (`failed`, `wrong`, `skipped`, `done`, `right`), and what they add up to."""

    kinds: Counter[str]
    usage: Usage
    score: Score


def write_page(
    path: Path,
    records: Callable[[], Iterable[Record]],
    job: Job,
    expected: Expected | None = None,
    title: str = "homescope results",
) -> Summary:
    """One HTML file with everything in it: thumbnail beside answer, the known answer where there is one, errors first.

    Written card by card, so that the memory it takes does not grow with the batch. Each image is read from its
    file now; where that is gone, the card says so.

    Args:
        path: where to; replaced in one step.
        records: gives all records, anew at every call.
        job: what was asked.
        expected: the known answers.
        title: shown at the top.

    Raises:
        OSError: it cannot be written.
    """
    expected = expected or Expected({})
    summary = summarise(records(), expected)
    new = path.with_name(path.name + ".new")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(_head(title, job, summary))
            _write_cards(file, _sorted(records, expected, summary), _Pictures(summary.kinds.total()), expected)
            file.write(_template("page_end.html").substitute(footer=_footer(summary)))
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    return summary


def _sorted(records: Callable[[], Iterable[Record]], expected: Expected, summary: Summary) -> Iterator[Record]:
    for wanted in _ORDER:
        if summary.kinds[wanted]:
            yield from (record for record in records() if kind(record, expected) == wanted)


def _write_cards(file: TextIO, records: Iterator[Record], pictures: _Pictures, expected: Expected) -> None:
    file.writelines(_card(record, expected, pictures) for record in islice(records, SHOWN))
    while chunk := [_card(record, expected, pictures) for record in islice(records, SHOWN)]:
        file.write(f"<template>\n{''.join(chunk)}</template>\n")


class _Pictures:
    """Thumbnails, smaller the more there are, until all together are `THUMBNAILS_BYTES`."""

    def __init__(self, count: int) -> None:
        self._size = next((size for most, size in _SIZES if count <= most), None)
        self._left = THUMBNAILS_BYTES

    def of(self, record: Record) -> str | None:
        if self._size is None or self._left <= 0:
            return None
        source = thumbnail(record.images[0] if record.images else record.file, self._size)
        self._left -= len(source or "")
        return source


def summarise(records: Iterable[Record], expected: Expected) -> Summary:
    """Counts the records of a page."""
    kinds: Counter[str] = Counter()
    usage = Usage()
    right = total = 0
    for record in records:
        kinds[kind(record, expected)] += 1
        if not isinstance(record, Skipped) and not is_copy(record):
            usage += record.usage
        verdict = expected.right(record)
        right, total = right + (verdict is True), total + (verdict is not None)
    return Summary(kinds, usage, Score(right, total))


def kind(record: Record, expected: Expected) -> str:
    """`failed`, `skipped`, `right`, `wrong`, or `done` where no answer is known."""
    if isinstance(record, Failed):
        return "failed"
    if isinstance(record, Skipped):
        return "skipped"
    return {True: "right", False: "wrong", None: "done"}[expected.right(record)]


def thumbnail(name: str | Path, size: tuple[int, int] = THUMBNAIL) -> str | None:
    """A small copy of a record's image as a data URI; None when it is gone, unreadable, far too large, or elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(_opened(str(name))) as image:
                if image.width * image.height > _MAX_PIXELS:
                    return None
                image.draft("RGB", size)
                small = ImageOps.exif_transpose(image)
                small.thumbnail(size)
                return _webp(small)
        except Exception:  # damaged files make Pillow raise anything: struct.error, TypeError, ...
            return None


def _opened(name: str) -> Path | io.BytesIO:
    """Where the image of a record is: its file, or the page of a PDF drawn again."""
    path, separator, number = name.rpartition("#page=")
    if separator and number.isdecimal() and path.lower().endswith(".pdf"):
        return io.BytesIO(Page(Path(os.fsdecode(path)), int(number)).read())
    return Path(os.fsdecode(name))


def _webp(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.convert("RGBA" if image.has_transparency_data else "RGB").save(stream, "WEBP", quality=82)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def _template(name: str) -> Template:
    return Template(files("client").joinpath(name).read_text("utf-8"))


def _head(title: str, job: Job, summary: Summary) -> str:
    return _template("page.html").substitute(
        title=escape(title),
        job=f"<b>{escape(job.model)}</b> was asked: {escape(job.prompt)}",
        tiles="".join(_tiles(summary)),
        filters="".join(_filters(summary.kinds)),
    )


def _tiles(summary: Summary) -> Iterator[str]:
    kinds, score = summary.kinds, summary.score
    if score.total:
        mood = "good" if score.right == score.total else ""
        yield _tile(f"{score.right}/{score.total}", "read exactly right", mood)
    yield _tile(f"{kinds['done'] + kinds['right'] + kinds['wrong']:,}", "answered")
    yield _tile(f"{kinds['failed']:,}", "failed", "bad" if kinds["failed"] else "")
    if kinds["skipped"]:
        yield _tile(f"{kinds['skipped']:,}", "skipped")
    yield _tile(f"{summary.usage.input_tokens:,}", "tokens in")
    yield _tile(f"{summary.usage.output_tokens:,}", "tokens out")


def _tile(value: str, label: str, mood: str = "") -> str:
    return f'<div class="tile {mood}"><strong>{value}</strong><span>{label}</span></div>'


def _filters(kinds: Counter[str]) -> Iterator[str]:
    for name, count in [("all", kinds.total()), *((name, kinds[name]) for name in _ORDER if kinds[name])]:
        yield f'<button type="button" data-kind="{name}" aria-pressed="false">{name}<b>{count:,}</b></button>'


def _footer(summary: Summary) -> str:
    return f"{summary.kinds.total():,} images. This page needs no network: everything it shows is inside it."


def _card(record: Record, expected: Expected, pictures: _Pictures) -> str:
    name = kind(record, expected)
    source = pictures.of(record)
    picture = f'<img src="{source}" alt="" loading="lazy">' if source else '<span class="none">no preview</span>'
    return (
        f'<article class="card {name}"><div class="picture">{picture}</div><div class="body">'
        f'<div class="name"><span class="badge">{name}</span><h2>{escape(record.file)}</h2>'
        f"<small>{escape(_facts(record))}</small></div>{_content(record, expected)}</div></article>\n"
    )


def _facts(record: Record) -> str:
    if isinstance(record, Skipped):
        return ""
    twin = [f"same image as {record.duplicate_of}"] if record.duplicate_of else []
    if isinstance(record, Done):
        facts = [f"{record.seconds:.1f} s", f"{record.usage.total_tokens:,} tokens"]
        cut = ["cut off at the token limit"] if record.finish_reason == "length" else []
        circles = ["goes round in circles"] if record.flaw == "repeats" else []
        return ", ".join([*facts, *(["mended"] if record.mended else []), *cut, *circles, *record.images, *twin])
    status = [f"HTTP {record.status}"] if record.status else []
    request = [f"request {record.request_id}"] if record.request_id else []
    return ", ".join([*status, *filter(None, [record.code]), f"attempts: {record.attempts}", *request, *twin])


def _content(record: Record, expected: Expected) -> str:
    if isinstance(record, Skipped):
        return f'<p class="reason">{escape(record.reason)}</p>'
    reason = f'<p class="reason">{escape(record.reason)}</p>' if isinstance(record, Failed) else ""
    known = expected.of(record, _UNKNOWN)
    value = _value(record.answer)
    sections = [] if record.answer is None else [_section("Answer", _answer(record.answer, value, known))]
    if known is not _UNKNOWN and not expected.right(record):
        sections.append(_section("Expected", f"<pre>{_json(known, value)}</pre>"))
    return f'{reason}<div class="pair">{"".join(sections)}</div>'


def _section(title: str, content: str) -> str:
    return f'<section class="{title.lower()}"><h3>{title}</h3>{content}</section>'


def _value(answer: str | None) -> Any:
    """The object or array in an answer; a lone number in a sentence is left in its sentence."""
    try:
        value = json_in(answer or "")
    except (ValueError, RecursionError):
        return _UNKNOWN
    return value if isinstance(value, dict | list) else _UNKNOWN


def _answer(text: str, value: Any, known: Any) -> str:
    words, alone = f'<pre class="words">{escape(text)}</pre>', _is_json(text)
    if value is _UNKNOWN or (known is _UNKNOWN and not alone):
        return words
    return ("" if alone else words) + f"<pre>{_json(value, known)}</pre>"


def _is_json(text: str) -> bool:
    """Whether an answer is JSON, fenced or not, and nothing else."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        return True
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json(value: Any, other: Any = _UNKNOWN, indent: str = "") -> str:
    """A JSON value as HTML, on one line where it fits, what differs from `other` marked."""
    inner = indent + "  "
    if isinstance(value, dict):
        items = [f"{_leaf(key)}: {_json(item, _at(other, key), inner)}" for key, item in value.items()]
    elif isinstance(value, list):
        items = [_json(item, _at(other, at), inner) for at, item in enumerate(value)]
    else:
        leaf = _leaf(value)
        return leaf if other is _UNKNOWN or same(value, other) else f"<mark>{leaf}</mark>"
    before, after = ("{", "}") if isinstance(value, dict) else ("[", "]")
    flat = isinstance(value, list) and not any(isinstance(item, dict | list) for item in value)
    if flat or len(indent) + len(json.dumps(value, ensure_ascii=False)) <= _LINE:
        return before + ", ".join(items) + after
    return f"{before}\n" + ",\n".join(inner + item for item in items) + f"\n{indent}{after}"


def _leaf(value: Any) -> str:
    return escape(json.dumps(value, ensure_ascii=False), quote=False)


def _at(other: Any, place: str | int) -> Any:
    """What stands at that place in the other value; `_MISSING`, which nothing equals, where there is no such place."""
    if other is _UNKNOWN:
        return _UNKNOWN
    if isinstance(other, dict) and isinstance(place, str):
        return other.get(place, _MISSING)
    return other[place] if isinstance(other, list) and isinstance(place, int) and place < len(other) else _MISSING
