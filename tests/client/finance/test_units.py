from __future__ import annotations

import pytest

from client.finance.series import measure_of
from client.finance.units import Unit, currency_of, parse_unit, unit_in_caption


@pytest.mark.parametrize(
    ("text", "factor", "currency"),
    [
        ("亿元", 1e8, "CNY"),
        ("万元", 1e4, "CNY"),
        ("百万元", 1e6, "CNY"),
        ("千万元", 1e7, "CNY"),
        ("十亿元", 1e9, "CNY"),
        ("万亿元", 1e12, "CNY"),
        ("千元", 1e3, "CNY"),
        ("元", 1.0, "CNY"),
        ("人民币百万元", 1e6, "CNY"),
        ("亿美元", 1e8, "USD"),
        ("百万港元", 1e6, "HKD"),
        ("million", 1e6, ""),
        ("CNY million", 1e6, "CNY"),
        ("RMB'000 thousand", 1e3, "CNY"),
        ("US$ bn", 1e9, "USD"),
        ("EUR mn", 1e6, "EUR"),
        ("%", None, ""),
        ("吨", None, ""),
        ("", None, ""),
    ],
)
def test_units(text: str, factor: float | None, currency: str) -> None:
    assert parse_unit(text) == Unit(factor, currency)


def test_two_currencies_are_none() -> None:
    assert currency_of("Revenue in CNY; overseas sales in USD") == ""


@pytest.mark.parametrize(
    ("caption", "unit"),
    [
        ("图1 营业收入（单位：亿元）", "单位：亿元"),
        ("Figure 2: Sales (restated) (CNY million)", "CNY million"),
        ("图1 营业收入（重述后）", ""),
        ("", ""),
    ],
)
def test_the_unit_of_a_caption(caption: str, unit: str) -> None:
    assert unit_in_caption(caption) == unit


@pytest.mark.parametrize(
    ("caption", "measure"),
    [
        ("图1 营业收入及同比增速（单位：亿元）", "营业收入"),
        ("图十二：净利润", "净利润"),
        ("Figure 3: Net profit and growth (CNY million)", "Net profit"),
        ("Fig. 3 Sales", "Sales"),
        ("", ""),
    ],
)
def test_the_measure_of_a_caption(caption: str, measure: str) -> None:
    assert measure_of(caption) == measure
