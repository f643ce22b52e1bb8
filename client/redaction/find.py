"""From lines of text to what has to be masked: rows, cells, columns, then rules and names."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from client.redaction.names import Tagger, again, is_header, is_person, names
from client.redaction.ocr import Line, slant
from client.redaction.rules import GAP, Kind, Span, spans

UNREADABLE_BELOW = 0.55
"""Lines read with less confidence are masked whole: nobody knows what they say."""

_CELL = 0.9
"""Texts of a row that are further apart than so many heights are two cells."""
_SAME_NAME = 3
"""Names from so many letters on are looked for again on the whole image."""


@dataclass(frozen=True, slots=True)
class Sensitive:
    """Something to mask.

    Attributes:
        kind: what it is.
        text: the characters, which never leave this process.
        quads: one for each character.
        verified: a check digit says so.
    """

    kind: Kind
    text: str
    quads: list[NDArray[np.float64]]
    verified: bool = False


@dataclass(slots=True)
class _Row:
    text: str = ""
    quads: list[NDArray[np.float64]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A line in the page's own axes."""

    line: Line
    left: float
    right: float
    middle: float
    height: float


def sensitive(lines: list[Line], tagger: Tagger) -> list[Sensitive]:
    """What of these lines is personal, and where."""
    unsure = [line for line in lines if line.score < UNREADABLE_BELOW]
    placed = _placed([line for line in lines if line.score >= UNREADABLE_BELOW])
    found = [Sensitive("unreadable", line.text, line.chars or [line.quad]) for line in unsure]
    rows = [(row, [*spans(row.text), *names(row.text, tagger)]) for row in map(_joined, _rows(placed))]
    for row, own in rows:
        found += [_cut(row, span) for span in own]
    found += _below_headers(placed)
    known = sorted({item.text for item in found if item.kind == "name" and len(item.text) >= _SAME_NAME})
    covered = {id(quad) for item in found for quad in item.quads}
    for row, _ in rows:
        found += [_cut(row, span) for span in again(row.text, known) if not _covers(covered, row, span)]
    return found


def _covers(covered: set[int], row: _Row, span: Span) -> bool:
    letters = zip(row.text[span.start : span.end], row.quads[span.start : span.end], strict=True)
    return all(id(quad) in covered for letter, quad in letters if letter != " ")


def _cut(row: _Row, span: Span) -> Sensitive:
    return Sensitive(span.kind, row.text[span.start : span.end], row.quads[span.start : span.end], span.verified)


def _placed(lines: list[Line]) -> list[_Placed]:
    angle = slant(lines)
    along = np.array([math.cos(angle), math.sin(angle)])
    down = np.array([-math.sin(angle), math.cos(angle)])
    places = []
    for line in lines:
        across, drop = line.quad @ along, line.quad @ down
        height = min(line.height, float(drop.max() - drop.min()))
        places.append(_Placed(line, float(across.min()), float(across.max()), float(drop.mean()), height))
    return places


def _rows(placed: list[_Placed]) -> Iterator[list[_Placed]]:
    """Lines side by side: their middles are less than half a height apart."""
    row: list[_Placed] = []
    for place in sorted(placed, key=lambda place: place.middle):
        if row and place.middle - row[0].middle > 0.5 * min(place.height, row[0].height):
            yield sorted(row, key=lambda each: each.left)
            row = []
        row.append(place)
    if row:
        yield sorted(row, key=lambda each: each.left)


def _joined(row: list[_Placed]) -> _Row:
    joined = _Row()
    before: _Placed | None = None
    for place in row:
        if before is not None:
            wide = place.left - before.right > _CELL * min(place.height, before.height)
            _add(joined, GAP if wide else " ", before.line.quad[[1, 1, 2, 2]])
        _add_line(joined, place)
        before = place
    return joined


def _add_line(joined: _Row, place: _Placed) -> None:
    """The characters of a line; wide blanks inside it separate cells, too."""
    last: NDArray[np.float64] | None = None
    for letter, quad in zip(place.line.text, place.line.chars, strict=True):
        if letter == " ":
            # The engine gives no box for a blank: it lies behind the letter before it.
            _add(joined, letter, quad if last is None else last[[1, 1, 2, 2]])
            continue
        if last is not None and last is not quad and _between(last, quad) > _CELL * place.height:
            _add(joined, GAP, last[[1, 1, 2, 2]])
        _add(joined, letter, quad)
        last = quad


def _between(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Pixels from the end of one character to the beginning of the next."""
    return float(np.linalg.norm(right[[0, 3]].mean(0) - left[[1, 2]].mean(0)))


def _add(row: _Row, letter: str, quad: NDArray[np.float64]) -> None:
    row.text += letter
    row.quads.append(quad)


def _below_headers(placed: list[_Placed]) -> Iterator[Sensitive]:
    """Names in a column: its head says so, and a name alone in a cell gives a tagger nothing to go by."""
    for head in (place for place in placed if is_header(place.line.text)):
        bottom = head
        for place in sorted(placed, key=lambda each: each.middle):
            if place.middle <= head.middle + 0.5 * head.height or not _same_column(head, place):
                continue
            if place.middle - bottom.middle > 4 * head.height:
                break
            bottom = place
            if is_person(place.line.text):
                yield Sensitive("name", place.line.text, place.line.chars)


def _same_column(head: _Placed, place: _Placed) -> bool:
    overlap = min(head.right, place.right) - max(head.left, place.left)
    return overlap > 0.5 * min(head.right - head.left, place.right - place.left)
