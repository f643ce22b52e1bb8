"""Which part of a row of text is personal: kinds, and spans of characters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from client.redaction.checks import born, citizen_id, iban, luhn

Kind: TypeAlias = Literal["name", "id_number", "phone", "bank_card", "account", "email", "unreadable"]


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` of a row. `verified`: a check digit says so, not the shape alone."""

    kind: Kind
    start: int
    end: int
    verified: bool = False


GAP = "\t"
"""Stands between texts of one row that are further apart than words: the cells of a table, the labels of an axis."""

_SAME_LENGTH = str.maketrans(
    "０１２３４５６７８９＠：．－—–ＸｘχΧ×（）Ｏ", "0123456789@:.---XXXXX()O"
)  # fmt: skip
_LOOKALIKES = str.maketrans("OoQDIl|SBZ", "0000111582")

_DIGITS = r"\d(?:[ -]?\d)"
_ID = re.compile(rf"(?<!\d){_DIGITS}{{16}}[ -]?[\dXx](?![\dA-Za-z])")
_OLD_ID = re.compile(r"(?<![\d.,])\d{15}(?![\d.,])")
_SSN = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
_RUN = re.compile(r"(?<![\d.,])\d(?:[ -]?\d){15,63}(?!\d|[.,]\d)")
_LONG = re.compile(r"(?<![\d.,])\d{16,32}(?!\d|[.,]\d)")
_IBAN = re.compile(r"(?<![A-Z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?![A-Z0-9])")
_MOBILE = re.compile(r"(?<!\d)(?<!\d[.,])(?:\(?\+?86\)?[ -]?)?1[3-9]\d(?:[ -]?\d){8}(?!\d|[.,]\d)")
_LANDLINE = re.compile(r"(?<![\d.])\(?0\d{2,3}\)?[ -]{0,2}[2-9]\d{2,3}[ -]?\d{4}(?!\d|[.,]\d)")
_SERVICE = re.compile(r"(?<![\d.,])[48]00[ -]\d{3,4}[ -]?\d{3,4}(?![\d])")
_ABROAD = re.compile(r"\+ ?\d{1,3}(?:[ -]?\(?\d{1,5}\)?){2,7}")
_AMERICAN = re.compile(r"(?<![\d.,-])(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}(?![\d-])")
_EMAIL = re.compile(r"[A-Za-z0-9_%+-]+(?:\. ?[A-Za-z0-9_%+-]+)* ?[@©®] ?[A-Za-z0-9-]+(?: ?[.,] ?[A-Za-z0-9-]+)*")

_SEPARATOR = r"[ \t:.]*"
_LABELED_PHONE = re.compile(
    rf"(?:电话|手机|传真|联系方式|(?i:tel|phone|mobile|cell|fax)(?i:ephone)?(?i: no| number)?)号?码?{_SEPARATOR}"
    r"(?P<value>[+(]{0,2}\d[\d\-() ]{5,18}\d)"
)
_LABELED_ID = re.compile(
    r"(?:身份证|证件|护照|(?i:passport|id(?: card)?|ssn))(?:号码|号|(?i: no| number))?"
    rf"{_SEPARATOR}(?P<value>[A-Z]{{0,2}}\d[\d -]{{5,17}}[\dXx])"
)
_LABELED_ACCOUNT = re.compile(
    r"(?:[账帐]号|[账帐]户|卡号|社保号|公积金号|(?i:account|acct|a/c)|(?i:iban)|(?i:card))(?:码|(?i: no| number| #))?"
    rf"{_SEPARATOR}(?P<value>[A-Z]{{0,4}}\d[\dA-Z -]{{4,40}}\d)"
)
_LABELED_EMAIL = re.compile(
    r"(?:邮箱|电子邮件|(?i:e-?mail))(?:地址|(?i: address))?[ :]*(?P<value>[A-Za-z0-9][^\t，。；]{4,60})"
)


def readable(text: str) -> str:
    """The row as the rules see it, character by character: one width, and no O or l among digits."""
    text = text.translate(_SAME_LENGTH)
    return re.sub(r"(?<=\d)[OoQDIl|SBZ](?=[ -]?[\dOoQDIl|SBZ])|(?<=\d )[OoIl|](?=\d)",
                  lambda found: found[0].translate(_LOOKALIKES), text)  # fmt: skip


def spans(text: str) -> list[Span]:
    """Everything in a row that follows a rule; of two that overlap the earlier rule below names their union."""
    found: list[Span] = []
    for span in _every(readable(text)):
        for at, other in enumerate(found):
            if span.start < other.end and other.start < span.end:
                start, end = min(span.start, other.start), max(span.end, other.end)
                found[at] = Span(other.kind, start, end, other.verified)
                break
        else:
            found.append(span)
    return sorted(found, key=lambda span: span.start)


def _every(text: str) -> Iterator[Span]:
    yield from _emails(text)
    yield from _ibans(text)
    yield from _ids(text)
    yield from _cards(text)
    yield from _labeled("account", _LABELED_ACCOUNT, text)
    yield from _phones(text)
    yield from _plain("account", _LONG, text)


def _plain(kind: Kind, pattern: re.Pattern[str], text: str) -> Iterator[Span]:
    for match in pattern.finditer(text):
        yield Span(kind, *match.span())


def _labeled(kind: Kind, pattern: re.Pattern[str], text: str) -> Iterator[Span]:
    for match in pattern.finditer(text):
        if _count(match["value"]) >= 6:
            yield Span(kind, *match.span("value"))


def _emails(text: str) -> Iterator[Span]:
    yield from _plain("email", _EMAIL, text)
    for match in _LABELED_EMAIL.finditer(text):
        yield Span("email", *match.span("value"))


def _ibans(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        if _count(match[0]) >= 8:
            # What follows an IBAN may be caught by the pattern, too: the longest start that checks is it.
            ends = [end for end in range(len(match[0]), 14, -1) if iban(match[0][:end].replace(" ", ""))]
            if ends:
                yield Span("account", match.start(), match.start() + ends[0], verified=True)


def _ids(text: str) -> Iterator[Span]:
    for match in _ID.finditer(text):
        number = _bare(match[0])
        verified = citizen_id(number)
        # One misread digit breaks the checksum; a number with a birthday in its middle is masked all the same.
        if verified or born(number[6:14]):
            yield Span("id_number", *match.span(), verified=verified)
    for match in _OLD_ID.finditer(text):
        if born("19" + match[0][6:12]):
            yield Span("id_number", *match.span())
    yield from _plain("id_number", _SSN, text)
    yield from _labeled("id_number", _LABELED_ID, text)


def _cards(text: str) -> Iterator[Span]:
    for match in _RUN.finditer(text):
        groups = list(re.finditer(r"\d+", match[0]))
        # A phone or a sum may stand right before the card: every row of groups with as many digits may be one.
        rows = (groups[first:last] for first in range(len(groups)) for last in range(first + 1, len(groups) + 1))
        found = [(_card([group[0] for group in row]), row[0].start(), row[-1].end()) for row in rows]
        checked = [(start, end) for right, start, end in found if right]
        # Without a row that checks, one digit was misread, or it is an account: masked all the same.
        seen = checked or [(start, end) for right, start, end in found if right is False]
        for start, end in seen:
            kind: Kind = "bank_card" if checked else "account"
            yield Span(kind, match.start() + start, match.start() + end, verified=bool(checked))


def _card(groups: list[str]) -> bool | None:
    """Whether these groups of digits check as a card; None when they do not even look like one."""
    number = "".join(groups)
    if not 16 <= len(number) <= 19 or _is_series(groups):
        return None
    right = luhn(number)
    return right if len(groups) == 1 or _looks_grouped(groups) or (right and len(groups) == 2) else None


def _looks_grouped(groups: list[str]) -> bool:
    """Fours with any rest, as printed on cards."""
    return all(len(group) == 4 for group in groups[:-1]) and len(groups) in (4, 5)


def _is_series(groups: list[str]) -> bool:
    """Whether the groups go up or down in even steps, like 2021 2022 2023 2024 or 1000 2000 3000 4000."""
    steps = {int(after) - int(before) for before, after in pairwise(groups)}
    return len(groups) > 2 and (len(steps) == 1 or all(re.fullmatch(r"(19|20)\d\d", group) for group in groups))


def _phones(text: str) -> Iterator[Span]:
    for match in _ABROAD.finditer(text):
        # More digits than a number of E.164 has: the next column stands close by.
        ends = [group.end() for group in re.finditer(r"\d+\)?", match[0]) if 8 <= _count(match[0][: group.end()]) <= 15]
        if ends:
            yield Span("phone", match.start(), match.start() + ends[-1])
    for pattern in (_MOBILE, _LANDLINE, _SERVICE, _AMERICAN):
        yield from _plain("phone", pattern, text)
    yield from _labeled("phone", _LABELED_PHONE, text)


def _count(text: str) -> int:
    return sum(letter.isdigit() for letter in text)


def _bare(text: str) -> str:
    return re.sub("[ -]", "", text)
