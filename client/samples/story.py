from __future__ import annotations

import random
from dataclasses import dataclass

from client.samples import wording
from client.samples.charts import Chart, Kind, Language

LOW_GROWTH, HIGH_GROWTH = -18.0, 38.0


@dataclass(frozen=True)
class Table:
    """Figures of several items over several years, in `unit`; `rows` are (name, one value a year)."""

    periods: tuple[int, ...]
    unit: str
    rows: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True)
class Plate:
    """A chart in a report. `scanned`: it stands on a page that is a picture."""

    chart: Chart
    caption: str
    scanned: bool = False


@dataclass(frozen=True)
class Report:
    """What an annual report says, before it is laid out on pages. `names`: Chinese, English."""

    language: Language
    names: tuple[str, str]
    industry: str
    year: int
    plates: tuple[Plate, ...]
    table: Table
    table_caption: str

    @property
    def name(self) -> str:
        return self.names[self.language == "en"]


def draw_report(rng: random.Random, language: Language) -> Report:
    """A report, its figures drawn from `rng`: values and their growth fit each other to the last digit printed."""
    year, english = rng.randint(2019, 2025), language == "en"
    names = rng.choice(wording.COMPANIES)
    unit = rng.choice(wording.UNITS[language])
    measures = rng.sample(list(wording.MEASURES.values()), 4)
    kinds: list[Kind] = ["combined", rng.choice(("bar", "line")), "combined", rng.choice(("combined", "bar", "line"))]
    plates = []
    for number, (measure, kind) in enumerate(zip(measures, kinds, strict=True), start=1):
        chart = draw_chart(rng, language, names[english], measure[english], unit, year, kind)
        caption = wording.CAPTIONS[language]["chart"].format(
            number=number, measure=chart.measure, unit=unit, growth=wording.AND_GROWTH[language] if chart.growth else ""
        )
        plates.append(Plate(chart, caption, scanned=number == len(kinds)))
    table = draw_table(rng, language, unit, year, plates[0].chart)
    caption = wording.CAPTIONS[language]["table"].format(number=1, count=len(table.periods), unit=unit)
    return Report(language, names, rng.choice(wording.INDUSTRIES)[english], year, tuple(plates), table, caption)


def draw_chart(
    rng: random.Random, language: Language, company: str, measure: str, unit: str, year: int, kind: Kind
) -> Chart:
    """A series that ends in `year`. Half of those with growth lose more than 3 points of it, two years running."""
    count = rng.choice((4, 4, 5)) if kind == "combined" else rng.choice((3, 4, 4, 5))
    figures = (
        _slowing(rng, count) if rng.random() < 0.5 else [rng.uniform(LOW_GROWTH, HIGH_GROWTH) for _ in range(count)]
    )
    values, growth = _grown(rng.choice((rng.uniform(8, 90), rng.uniform(90, 400))), figures)
    return Chart(
        kind=kind,
        language=language,
        company=company if rng.random() < 0.7 else "",
        measure=measure,
        unit=unit,
        periods=tuple(range(year - count + 1, year + 1)),
        values=values,
        growth=growth if kind == "combined" else None,
    )


def _slowing(rng: random.Random, count: int) -> list[float]:
    figures = [rng.uniform(12, HIGH_GROWTH)]
    while len(figures) < count:
        figures.append(figures[-1] - rng.uniform(3.6, 9.0))
    return figures


def _grown(before: float, figures: list[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Values of one decimal that follow `before`, and the growth that these printed values have."""
    last, values, growth = round(before, 1), [], []
    for figure in figures:
        value = max(1.0, round(last * (1 + figure / 100), 1))
        growth.append(round(100 * (value / last - 1), 1) + 0.0)  # + 0.0: no negative zero
        values.append(value)
        last = value
    return tuple(values), tuple(growth)


def draw_table(rng: random.Random, language: Language, unit: str, year: int, chart: Chart) -> Table:
    """Five years of figures; the first row's last years are those of the chart."""
    periods = tuple(range(year - 4, year + 1))
    names = [name for name in wording.TABLE_ROWS[language] if name != chart.measure]
    rows = [(name, tuple(_walk(rng, len(periods)))) for name in names]
    earlier = _walk(rng, len(periods) - len(chart.values))
    return Table(periods, unit, ((chart.measure, (*earlier, *chart.values)), *rows))


def _walk(rng: random.Random, count: int) -> tuple[float, ...]:
    figures = [rng.uniform(LOW_GROWTH, HIGH_GROWTH) for _ in range(count)]
    return _grown(rng.uniform(5, 400), figures)[0]
