from __future__ import annotations

from pathlib import Path

import pytest

from client.errors import ConfigurationError
from client.finance.rules import Rule, alerts_of, read_rules
from client.finance.series import Flag, Point, Series


def series(*growth: float | None, first: int = 2020) -> Series:
    points = tuple(
        Point(year=first + place, value=10.0 + place, amount=None, growth_printed=figure, growth_computed=None)
        for place, figure in enumerate(growth)
    )
    return Series(measure="营业收入", unit="亿元", currency="CNY", points=points)


def labels(found: Series) -> list[str]:
    return [alert.label for alert in alerts_of(found, read_rules())]


@pytest.mark.parametrize(
    ("growth", "expected"),
    [
        ((20.0, 16.0, 12.0), ["重点关注"]),
        ((20.0, 17.0, 14.0), []),  # by 3 points, not by more
        ((12.1, 9.1, 6.0), []),  # 12.1 - 9.1 is 3, whatever binary fractions say
        ((20.0, 16.0, 13.5), []),
        ((20.0, 16.0, 12.0, 15.0), []),  # it rose again
        ((30.0, 20.0, 16.0, 12.0), ["重点关注"]),
        ((20.0, 16.0), []),
        ((20.0, None, 12.0), []),
        ((4.0, 0.5, -3.0), ["重点关注", "关注"]),
        ((5.0, -0.1), ["关注"]),
    ],
)
def test_the_built_in_rules(growth: tuple[float | None, ...], expected: list[str]) -> None:
    assert labels(series(*growth)) == expected


def test_an_alert_names_the_years_and_their_figures() -> None:
    (alert,) = alerts_of(series(30.0, 20.0, 16.0, 12.0), read_rules())
    assert alert.years == (2021, 2022, 2023)
    assert alert.message == (
        "营业收入: growth fell by more than 3 points two years running (2021: 20.0 %, 2022: 16.0 %, 2023: 12.0 %)"
    )
    assert alert.certain


def test_an_alert_on_figures_in_doubt_says_so() -> None:
    doubtful = series(30.0, 20.0, 10.0).model_copy(update={"flags": (Flag(kind="growth", year=2021, message="?"),)})
    assert not alerts_of(doubtful, read_rules())[0].certain


def test_a_gap_between_years_is_no_change() -> None:
    points = series(30.0, 20.0, 10.0).points
    gap = [points[0], points[1].model_copy(update={"year": 2023}), points[2].model_copy(update={"year": 2024})]
    assert labels(series().model_copy(update={"points": tuple(gap)})) == []


def test_a_rule_for_some_measures_anywhere() -> None:
    rule = Rule(
        name="low", label="low", message="low", metric="value", test="level", below=11, when="any", measures=("净利润",)
    )
    assert alerts_of(series(1, 1, 1), [rule]) == []
    (alert,) = alerts_of(series(1, 1, 1).model_copy(update={"measure": "净利润"}), [rule])
    assert alert.years == (2020,)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rule = 3", "rule"),
        ("[[rule]\n", "not TOML"),
        ('[[rule]]\nname="a"\nlabel="b"\nmessage=""\nmetric="growth"\ntest="level"', "needs below, above, or both"),
        ('[[rule]]\nname="a"\nlabel="b"\nmessage=""\nmetric="profit"\ntest="level"\nbelow=1', "metric"),
        ('[[rule]]\nname="a"\nlabel="b"\nmessage=""\nmetric="value"\ntest="level"\nbelow=1\ntypo=1', "typo"),
    ],
)
def test_rules_that_are_none(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=problem):
        read_rules(path)


def test_rules_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_rules(tmp_path / "gone.toml")
