import json
import random

import pytest

from serving.demo import dialogues
from serving.demo.charts.chart import Chart, Language, draw_chart

CHART = Chart("combined", "zh", "公司", "营业收入", "亿元", (2021, 2022, 2023), (12.3, 8.0, 15.1), (3.5, -35.0, 88.8))
PLAIN = Chart("bar", "en", "Acme", "Sales", "million", (2021, 2022), (12.3, 8.0))


@pytest.mark.parametrize(
    ("task", "language", "answer"),
    [
        (
            "json",
            "en",
            '{"type":"combined","unit":"亿元","years":[2021,2022,2023],"values":[12.3,8.0,15.1],"growth":[3.5,-35.0,88.8]}',
        ),
        (
            "describe",
            "zh",
            "这是柱状图与折线图的组合图，单位亿元，2021年12.3（3.5%），2022年8.0（-35.0%），2023年15.1（88.8%）。",
        ),
        ("period", "en", "Value in 2022: 8.0."),
        ("growth", "zh", "2022年同比-35.0%。"),
        ("highest", "zh", "2023年最高，为15.1。"),
        ("lowest", "en", "The lowest is 2022 with 8.0."),
        ("trend", "en", "Growth went from -35.0% to 88.8%: it sped up."),
        ("type", "zh", "这是柱状图与折线图的组合图。"),
    ],
)
def test_answers(task: dialogues.Task, language: Language, answer: str) -> None:
    assert dialogues.answer(task, CHART, language, index=1) == answer


def test_a_chart_without_growth_is_not_given_any() -> None:
    assert dialogues.answer("growth", PLAIN, "en", 0) == "The chart prints no growth."
    assert dialogues.trend(PLAIN, "zh") == "图中未标注增长率。"


def test_slowing_growth_is_named() -> None:
    slowing = Chart("combined", "en", "Acme", "Sales", "", (2021, 2022), (1.0, 2.0), (20.0, 10.5))
    assert dialogues.trend(slowing, "en") == "Growth went from 20.0% to 10.5%: it slowed."


def test_answers_follow_the_language_of_the_question() -> None:
    rng = random.Random(1)
    for _ in range(300):
        exchange = dialogues.draw_exchange(PLAIN, rng, "describe")
        chinese = any(character > "\u2e80" for character in exchange.question)
        assert chinese == any(character > "\u2e80" for character in exchange.answer)


def test_a_comparison_names_the_higher_chart() -> None:
    higher = Chart("bar", "en", "Acme", "Sales", "", (2021, 2022), (90.0, 2.0))
    verdicts = {dialogues.draw_comparison(higher, CHART, random.Random(seed)).answer for seed in range(20)}
    assert verdicts == {
        "图1最高为90.0，图2最高为15.1，图1更高。",
        "Chart 1 peaks at 90.0, chart 2 at 15.1: chart 1 is higher.",
    }


def test_a_question_without_an_image_is_refused_in_its_language() -> None:
    answers = {dialogues.draw_refusal(random.Random(seed)).answer for seed in range(50)}
    assert answers == set(dialogues.REFUSALS.values())


def test_json_answers_parse_to_what_is_expected() -> None:
    rng = random.Random(3)
    for _ in range(200):
        chart = draw_chart(rng)
        assert json.loads(dialogues.draw_exchange(chart, rng, "json").answer) == chart.expected()
