from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Choice = TypeVar("Choice")

Kind = Literal["bar", "line", "combined"]
Language = Literal["zh", "en"]

COMPANIES: dict[Language, tuple[str, ...]] = {
    "zh": ("华星科技", "东方电气", "蓝天股份", "长江电力", "金山软件", "恒瑞医药", "公司", "集团", "本公司", ""),
    "en": ("Northwind", "Acme", "Contoso", "Blue Sky", "Company", "Group", ""),
}
MEASURES: dict[Language, tuple[str, ...]] = {
    "zh": ("营业收入", "营收", "主营业务收入", "净利润", "销售额", "收入"),
    "en": ("Revenue", "Net profit", "Sales", "Operating revenue", "Income"),
}
UNITS: dict[Language, tuple[str, ...]] = {"zh": ("亿元", "万元", "百万元"), "en": ("million", "billion")}
KIND_WEIGHTS: dict[Kind, float] = {"bar": 0.35, "line": 0.2, "combined": 0.45}
PERIOD_WEIGHTS = {2: 0.12, 3: 0.4, 4: 0.28, 5: 0.14, 6: 0.06}
DECIMAL_WEIGHTS = {0: 0.08, 1: 0.82, 2: 0.1}


@dataclass(frozen=True)
class Chart:
    """What a chart says, independent of how it is drawn.

    `values` are positive and carry `decimals` digits after the point; `growth` is in percent with
    `growth_decimals` digits, one figure a period, or None where the chart prints no growth. `unit` is
    empty where the chart prints none.
    """

    kind: Kind
    language: Language
    company: str
    measure: str
    unit: str
    periods: tuple[int, ...]
    values: tuple[float, ...]
    growth: tuple[float, ...] | None = None
    decimals: int = 1
    growth_decimals: int = 1

    def value_text(self, index: int) -> str:
        return f"{self.values[index]:.{self.decimals}f}"

    def growth_text(self, index: int) -> str:
        if self.growth is None:
            raise ValueError("this chart prints no growth")
        return f"{self.growth[index]:.{self.growth_decimals}f}"

    def expected(self) -> dict[str, Any]:
        """The JSON object that a reader of the chart must answer, keys in order."""
        return {
            "type": self.kind,
            "unit": self.unit,
            "years": list(self.periods),
            "values": list(self.values),
            "growth": list(self.growth or ()),
        }

    def answer(self) -> str:
        """`expected()` as text with the digits as they are printed in the chart."""
        indices = range(len(self.periods))
        values = ",".join(self.value_text(i) for i in indices)
        growth = ",".join(self.growth_text(i) for i in indices) if self.growth else ""
        years = ",".join(map(str, self.periods))
        return (
            f'{{"type":"{self.kind}","unit":"{self.unit}","years":[{years}],"values":[{values}],"growth":[{growth}]}}'
        )


def weighted(rng: random.Random, weights: dict[Choice, float]) -> Choice:
    return rng.choices(list(weights), list(weights.values()))[0]


def draw_values(rng: random.Random, count: int, decimals: int) -> tuple[float, ...]:
    low, high = rng.choices(((1.0, 9.9), (10.0, 99.9), (100.0, 999.9)), (0.25, 0.45, 0.3))[0]
    if decimals == 0:
        low, high = rng.choice(((10, 99), (100, 999), (1000, 9999), (10000, 49999)))
    value = rng.uniform(low, high)
    values = []
    for _ in range(count):
        values.append(value)
        value *= 1 + min(0.8, max(-0.6, rng.gauss(0.08, 0.2)))
    if rng.random() < 0.5:
        values = [rng.uniform(low, high) for _ in range(count)]
    ceiling = 99999 if decimals == 0 else 999
    shrink = min(1.0, ceiling / max(values))
    return tuple(round(max(1.0, value * shrink), decimals) for value in values)


def draw_growth(rng: random.Random, values: tuple[float, ...], decimals: int) -> tuple[float, ...]:
    """True growth of the values, or, as for charts of another measure's growth, figures of their own."""
    if rng.random() < 0.4:
        steps = [100 * (after / before - 1) for before, after in itertools.pairwise(values)]
        figures = [rng.uniform(-20, 50), *steps]
    else:
        low, high = rng.choice(((-30.0, 60.0), (0.0, 30.0), (-15.0, 15.0)))
        figures = [rng.uniform(low, high) for _ in values]
    # + 0.0 turns the negative zero of a rounded small loss into 0
    return tuple(round(min(180.0, max(-90.0, g)), decimals) + 0.0 for g in figures)


def boosted(weights: dict[int, float], usual: tuple[int, ...], variety: float) -> dict[int, float]:
    """`weights` with those that are not `usual` times `variety`, where that is more than 1."""
    return {each: weight if each in usual else weight * max(1.0, variety) for each, weight in weights.items()}


def draw_chart(rng: random.Random, variety: float = 1.0) -> Chart:
    """A chart's content, drawn from `rng`. `variety` scales how often the rarer forms occur: 1 is how often they occur
    in charts to be read, more is for training, which would otherwise see too few of them."""
    language: Language = "zh" if rng.random() < 0.6 else "en"
    kind = weighted(rng, KIND_WEIGHTS)
    count = weighted(rng, boosted(PERIOD_WEIGHTS, (2, 3, 4), variety))
    decimals = weighted(rng, boosted(DECIMAL_WEIGHTS, (1,), variety))
    if rng.random() > variety:
        count, decimals = min(count, 4), 1
    first = rng.randint(2005, 2031 - count)
    values = draw_values(rng, count, decimals)
    growth_decimals = 0 if rng.random() < 0.08 * variety else 1
    has_growth = kind == "combined" or (kind == "bar" and rng.random() < 0.08 * variety)
    growth = draw_growth(rng, values, growth_decimals) if has_growth else None
    return Chart(
        kind=kind,
        language=language,
        company=rng.choice(COMPANIES[language]),
        measure=rng.choice(MEASURES[language]),
        unit=rng.choice(UNITS[language]) if rng.random() < 0.85 else "",
        periods=tuple(range(first, first + count)),
        values=values,
        growth=growth,
        decimals=decimals,
        growth_decimals=growth_decimals,
    )
