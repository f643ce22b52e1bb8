"""What charts print around their figures: titles, legends, period labels, units."""

from __future__ import annotations

import random

from serving.demo.charts.chart import Chart

GROWTH_NAMES = {
    "zh": ("同比增速", "同比增长", "增长率", "同比", "增速"),
    "en": ("Growth", "YoY", "YoY growth", "Growth rate"),
}
UNIT_NOTES = {
    "zh": ("单位：{unit}", "（单位：{unit}）", "单位:{unit}", "{unit}"),
    "en": ("in {unit}", "Unit: {unit}", "CNY {unit}", "({unit})"),
}
TITLES = {
    "zh": ("{who}{what}", "{first}-{last}年{who}{what}", "{who}{first}—{last}年{what}情况", "图1：{who}{what}"),
    "en": ("{who} {what}", "{who} {what}, {first}-{last}", "{what} of {who}", "Annual {what}"),
}
GROWTH_TITLES = {"zh": "{who}{what}及增速", "en": "{who} {what} and growth"}
PERIOD_FORMS = {"zh": ("{}", "{}", "{}年", "{}年", "{}A", "FY{}"), "en": ("{}", "{}", "{}", "FY{}", "{}A", "{}E")}
TWO_LINE_PERIODS = {"zh": ("{}\n年报", "{}\n全年", "{}年\n(实际)"), "en": ("FY\n{}", "{}\nActual", "Year\n{}")}


def unit_reading(unit: str) -> str:
    """The unit in the letters of a figure, for the heads that read labels."""
    return f"--{('亿元', '万元', '百万元', 'million', 'billion').index(unit)}"


def title(chart: Chart, rng: random.Random, with_unit: bool) -> str:
    form = rng.choice(TITLES[chart.language])
    if chart.growth and rng.random() < 0.3:
        form = GROWTH_TITLES[chart.language]
    first, last = chart.periods[0], chart.periods[-1]
    text = form.format(who=chart.company, what=chart.measure, first=first, last=last).strip().removesuffix(" of")
    if with_unit:
        text += f"（{chart.unit}）" if chart.language == "zh" else f" ({chart.unit})"
    return text


def unit_note(chart: Chart, rng: random.Random) -> str:
    return rng.choice(UNIT_NOTES[chart.language]).format(unit=chart.unit)


def growth_name(chart: Chart, rng: random.Random) -> str:
    return rng.choice(GROWTH_NAMES[chart.language])


def period_labels(chart: Chart, rng: random.Random, two_line: bool) -> list[str]:
    forms = TWO_LINE_PERIODS if two_line else PERIOD_FORMS
    form = rng.choice(forms[chart.language])
    return [form.format(year) for year in chart.periods]


def value_labels(chart: Chart, grouped: bool) -> list[str]:
    """Printed values; `grouped` puts a comma between thousands."""
    comma = "," if grouped else ""
    return [f"{value:{comma}.{chart.decimals}f}" for value in chart.values]


def growth_labels(chart: Chart, signed: bool) -> list[str]:
    """Printed growth in percent, empty where the chart prints none; `signed` shows a plus for gains."""
    sign = "+" if signed else ""
    return [f"{growth:{sign}.{chart.growth_decimals}f}%" for growth in chart.growth or ()]
