from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from client.finance.reading import Reading, reading_key
from client.finance.series import series_of, words_flags
from tests.client.finance.conftest import READING, WORDS


def reading(**changes: Any) -> Reading:
    return Reading.model_validate(READING | changes)


def test_amounts_are_in_single_yuan_and_growth_is_recomputed() -> None:
    series = series_of(reading(), "图1 营业收入及同比增速（单位：亿元）")
    assert (series.measure, series.unit, series.currency, series.flags) == ("营业收入", "亿元", "CNY", ())
    second = series.points[1]
    assert (second.amount, second.growth_printed, second.growth_computed) == (9_610_000_000, 16.8, 16.77)
    assert series.points[0].growth_computed is None


@pytest.mark.parametrize(
    ("changes", "years"),
    [
        ({"growth": [25.1, 16.8, 14.9, 10.1]}, []),
        ({"growth": [25.1, 16.9, 14.9, 10.1]}, []),  # both of 82.3 and 96.1 may have been rounded
        ({"growth": [25.1, 17.1, 14.9, 10.1]}, [2022]),
        ({"growth": [99.9, 16.8, 14.9, 10.1]}, []),  # nothing tells the year before the first
        ({"values": [82.3, 96.1, 110.4, 112.5]}, [2024]),
        ({"values": [82, 96, 110, 122], "growth": [25, 17, 15, 11]}, []),
        ({"growth": []}, []),
        ({"years": [2019, 2021, 2023, 2024], "growth": [1.0, 2.0, 3.0, 10.1]}, []),  # not year by year
    ],
)
def test_printed_growth_against_values(changes: dict[str, Any], years: list[int]) -> None:
    assert [flag.year for flag in series_of(reading(**changes)).flags] == years


def test_units_of_chart_and_caption_that_disagree() -> None:
    (flag,) = series_of(reading(), "图1 营业收入（单位：百万元）").flags
    assert (flag.kind, flag.message) == ("unit", "the chart's unit is 亿元, its caption says 单位：百万元")


def test_the_unit_of_the_caption_serves_a_chart_without_one() -> None:
    series = series_of(reading(unit=""), "Figure 1: Sales (CNY million)")
    assert (series.unit, series.currency, series.points[0].amount) == ("CNY million", "CNY", 82_300_000)


def test_the_currency_of_the_page() -> None:
    assert series_of(reading(unit="million"), "", "All figures are in USD.").currency == "USD"
    assert series_of(reading(unit="million"), "", "CNY and USD").currency == ""


def test_no_amount_without_a_unit() -> None:
    assert series_of(reading(unit="")).points[0].amount is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (WORDS, []),
        ("", []),
        ("营收稳步增长。", []),
        ("2022年营收为96.1亿元，同比16.8%。", []),
        ("2022年营收为96.7亿元。", ["2022: the words say 96.7, the figures 96.1"]),
        ("2022年96.1（18.6%）。", ["2022: the words say 18.6 %, the figures 16.8 %"]),
        ("96.1 in 2022 (16.8%), 110.4 in 2023", []),
        ("99.1 in 2022", ["2022: the words say 99.1, the figures 96.1"]),
        ("增速由14.9%变为10.1%，增长加快。", ["the words say that growth rose, by the figures it slowed"]),
        ("2023年最高，为110.4。", ["the words call 2023 the highest, the figures 2024"]),
        ("2024年最高，为121.5。2021年最低，为82.3。", []),
        ("The lowest is 2022 with 96.1.", ["the words call 2022 the lowest, the figures 2021"]),
        ("2024年最高，为110.4。", ["2024: the words call 110.4 the highest, the figures 121.5"]),
        ("2030年预计为200.0。", []),
    ],
)
def test_words_against_figures(words: str, expected: list[str]) -> None:
    assert [flag.message for flag in words_flags(words, reading())] == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"values": [1.0]},
        {"growth": [1.0]},
        {"years": [2021, 2021, 2023, 2024]},
        {"years": [2024, 2023, 2022, 2021]},
        {"years": [], "values": [], "growth": []},
        {"years": [21, 22, 23, 24]},
        {"values": ["a", "b", "c", "d"]},
    ],
)
def test_a_reading_that_cannot_be_of_one_chart(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        reading(**changes)


def test_another_model_or_question_is_another_key() -> None:
    keys = {
        reading_key("d", "m", True),
        reading_key("d", "m", False),
        reading_key("d", "n", True),
        reading_key("e", "m", True),
    }
    assert len(keys) == 4
