from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict

from client.finance.reading import Reading
from client.finance.units import Unit, currency_of, parse_unit, unit_in_caption

FlagKind = Literal["growth", "words", "unit"]
_NUMBER = re.compile(
    r"^\s*[（(【\[]?\s*(?:图表|图|表|figure|fig\.|table|chart|exhibit)\s*[\d一二三四五六七八九十]+\s*[：:.、]?\s*", re.I
)
_BRACKETS = re.compile(r"[（(][^（）()]*[）)]")
_GROWTH = re.compile(r"\s*(?:及|与|和)?(?:同比)?(?:增速|增长率|增长)$|\s+and (?:its )?growth(?: rate)?$", re.I)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Point(_Frozen):
    """One year of a series.

    Attributes:
        value: as printed, in the chart's unit.
        amount: in single yuan, dollars, ...; None where the unit is unknown.
        growth_printed: percent, None where the chart prints none.
        growth_computed: percent, from the value and that of the year before; None for the first year.
    """

    year: int
    value: float
    amount: float | None
    growth_printed: float | None
    growth_computed: float | None

    @property
    def growth(self) -> float | None:
        """The printed growth, else the computed one; percent."""
        return self.growth_computed if self.growth_printed is None else self.growth_printed


class Flag(_Frozen):
    """A disagreement: `growth` between printed growth and values, `words` between the model's words and its figures,
    `unit` between chart and caption."""

    kind: FlagKind
    year: int | None
    message: str


class Series(_Frozen):
    """What one chart says, normalised. `currency` is ISO 4217, empty where nothing tells."""

    measure: str
    unit: str
    currency: str
    points: tuple[Point, ...]
    flags: tuple[Flag, ...] = ()


def series_of(reading: Reading, caption: str = "", nearby: str = "") -> Series:
    """Normalises a reading. The unit comes from the chart, else the caption; the currency from the chart's unit, else
    the caption, else the text of the page where that names one alone."""
    beside = unit_in_caption(caption)
    text = reading.unit or beside
    unit = parse_unit(text)
    currency = unit.currency or currency_of(beside) or currency_of(caption) or currency_of(nearby)
    return Series(
        measure=measure_of(caption),
        unit=text,
        currency=currency,
        points=tuple(_points(reading, unit)),
        flags=(*_unit_flags(reading.unit, beside), *_growth_flags(reading)),
    )


def measure_of(caption: str) -> str:
    """`图1 营业收入及同比增速（单位：亿元）` is about `营业收入`."""
    return _GROWTH.sub("", _BRACKETS.sub("", _NUMBER.sub("", caption)).strip()).strip()


def _points(reading: Reading, unit: Unit) -> Iterator[Point]:
    for place, (year, value) in enumerate(zip(reading.years, reading.values, strict=True)):
        yield Point(
            year=year,
            value=value,
            amount=None if unit.factor is None else round(value * unit.factor, 2),
            growth_printed=reading.growth[place] if reading.growth else None,
            growth_computed=_computed(reading, place),
        )


def _computed(reading: Reading, place: int) -> float | None:
    if place == 0 or reading.years[place] != reading.years[place - 1] + 1 or reading.values[place - 1] <= 0:
        return None
    return round(100 * (reading.values[place] / reading.values[place - 1] - 1), 2)


def _growth_flags(reading: Reading) -> Iterator[Flag]:
    """Printed growth that the printed values cannot have, however they were rounded."""
    for place, year in enumerate(reading.years):
        computed = _computed(reading, place)
        if computed is None or not reading.growth:
            continue
        low, high = _possible_growth(reading, place)
        printed = reading.growth[place]
        if not low <= printed <= high:
            yield Flag(
                kind="growth", year=year, message=f"{year}: {printed:g} % printed, {computed:.1f} % by the values"
            )


def _possible_growth(reading: Reading, place: int) -> tuple[float, float]:
    half = 0.5 * 10 ** -_decimals(reading.values)
    slack = 0.5 * 10 ** -_decimals(reading.growth) + 1e-6
    before, after = reading.values[place - 1], reading.values[place]
    low = 100 * ((after - half) / (before + half) - 1)
    high = 100 * ((after + half) / max(before - half, 1e-9) - 1)
    return low - slack, high + slack


def _decimals(figures: list[float]) -> int:
    """Digits after the point that the series is printed with."""
    return max(len(f"{figure:.6f}".rstrip("0").partition(".")[2]) for figure in figures)


def _unit_flags(printed: str, beside: str) -> Iterator[Flag]:
    chart, caption = parse_unit(printed), parse_unit(beside)
    if printed and beside and None not in (chart.factor, caption.factor) and chart.factor != caption.factor:
        yield Flag(kind="unit", year=None, message=f"the chart's unit is {printed}, its caption says {beside}")


def words_flags(words: str, reading: Reading) -> list[Flag]:
    """Where the model's sentences and its figures part: values and growth told for a year, highest, lowest, trend."""
    if not words:
        return []
    told = [*_told_figures(words, reading), *_told_extremes(words, reading), *_told_trend(words, reading)]
    return [Flag(kind="words", year=year, message=message) for year, message in dict.fromkeys(told)]


_ZH_FIGURES = re.compile(
    r"(\d{4})年(?!最)[^\d。；，,（(%]{0,10}?(-?\d[\d,]*\.?\d*)(?![\d%])[^\d。；，,（(]{0,4}(?:[（(](-?[\d.]+)%)?"
)
_EN_FIGURES = re.compile(r"(?P<value>-?\d[\d,]*\.?\d*) in (?P<year>\d{4})(?: \((?P<growth>-?[\d.]+)%\))?")


def _told_figures(words: str, reading: Reading) -> Iterator[tuple[int, str]]:
    told = [match.groups() for match in _ZH_FIGURES.finditer(words)]
    told += [match.group("year", "value", "growth") for match in _EN_FIGURES.finditer(words)]
    for year, value, growth in ((int(year), value, growth) for year, value, growth in told):
        if year not in reading.years:
            continue
        place = reading.years.index(year)
        if float(value.replace(",", "")) != reading.values[place]:
            yield year, f"{year}: the words say {value}, the figures {reading.values[place]:g}"
        if growth and reading.growth and float(growth) != reading.growth[place]:
            yield year, f"{year}: the words say {growth} %, the figures {reading.growth[place]:g} %"


def _told_extremes(words: str, reading: Reading) -> Iterator[tuple[int, str]]:
    for pick, zh, en in ((max, "最高", "highest"), (min, "最低", "lowest")):
        match = re.search(rf"(\d{{4}})年{zh}(?:，为(-?[\d.,]*\d))?|{en} is (\d{{4}})(?: with (-?[\d.,]*\d))?", words)
        if match is None:
            continue
        year, told = int(match.group(1) or match.group(3)), match.group(2) or match.group(4)
        figure = pick(reading.values)
        years = [year for year, value in zip(reading.years, reading.values, strict=True) if value == figure]
        if year not in years:
            yield year, f"the words call {year} the {en}, the figures {years[0]}"
        elif told and float(told.replace(",", "")) != figure:
            yield year, f"{year}: the words call {told} the {en}, the figures {figure:g}"


def _told_trend(words: str, reading: Reading) -> Iterator[tuple[int, str]]:
    rates = reading.growth or [100 * (after / before - 1) for before, after in pairwise(reading.values) if before > 0]
    slowed, sped = (bool(re.search(text, words)) for text in ("放缓|slowed|slowing", "加快|提速|sped up|accelerat"))
    if len(rates) < 2 or slowed == sped:
        return
    if (slowed and rates[-1] > rates[-2]) or (sped and rates[-1] < rates[-2]):
        said, is_so = ("slowed", "rose") if slowed else ("rose", "slowed")
        yield reading.years[-1], f"the words say that growth {said}, by the figures it {is_so}"
