from __future__ import annotations

import re
from dataclasses import dataclass

_SCALES: dict[str, float] = {
    "万亿": 1e12, "trillion": 1e12, "tn": 1e12,
    "十亿": 1e9, "billion": 1e9, "bn": 1e9,
    "亿": 1e8, "千万": 1e7,
    "百万": 1e6, "million": 1e6, "mn": 1e6, "mio": 1e6,
    "万": 1e4, "千": 1e3, "thousand": 1e3,
}  # fmt: skip
_CURRENCIES = {
    "USD": r"美元|美金|USD|US\$|dollars?",
    "HKD": r"港元|港币|HKD|HK\$",
    "EUR": r"欧元|EUR|€|euros?",
    "JPY": r"日元|JPY",
    "GBP": r"英镑|GBP|£",
    "CNY": r"人民币|RMB|CNY|renminbi|yuan|(?<![美港欧日韩])元",
}
_SCALE = re.compile("|".join([*(name for name in _SCALES if not name.isascii()), *(
    rf"(?<![a-z]){name}(?![a-z])" for name in _SCALES if name.isascii())]), re.IGNORECASE)  # fmt: skip
_IN_BRACKETS = re.compile(r"[（(]([^（）()]*)[）)]")


@dataclass(frozen=True, slots=True)
class Unit:
    """What a printed unit means.

    Attributes:
        factor: what a value is multiplied with to be in single yuan, dollars, ...; None: it is no amount of money,
            or the text does not say.
        currency: ISO 4217, empty where the text does not say.
    """

    factor: float | None
    currency: str


def parse_unit(text: str) -> Unit:
    """`亿元` is 100,000,000 CNY, `US$ million` 1,000,000 USD. A scale alone (`million`) has no currency."""
    currency = currency_of(text)
    scale = _SCALE.search(text)
    if scale is not None:
        return Unit(_SCALES[scale.group().lower()], currency)
    return Unit(1.0 if currency else None, currency)


def currency_of(text: str) -> str:
    """The only currency that a text names; empty where it names none, or several."""
    found = [code for code, names in _CURRENCIES.items() if re.search(names, text, re.IGNORECASE)]
    return found[0] if len(found) == 1 else ""


def unit_in_caption(caption: str) -> str:
    """The part of a caption in brackets that is a unit: `图1 营业收入（单位：亿元）` says `单位：亿元`."""
    parts: list[str] = _IN_BRACKETS.findall(caption)
    return next((part for part in reversed(parts) if parse_unit(part).factor is not None), "")
