from dataclasses import replace

from PIL import Image

from serving.demo import dialogues
from serving.demo.asking import Answer, Query, agreement, alike
from serving.demo.evaluate import by_task, examination, fresh_charts, score

ITEMS = fresh_charts(6, 11, "pillow")
CHARTS = [item.chart for item in ITEMS]
RIGHT = [chart.answer() for chart in CHARTS]


def test_right_answers_score_one() -> None:
    result = score(CHARTS, RIGHT)

    assert (result.exact, result.whole, result.figures) == (1.0, 1.0, 1.0)


def test_a_wrong_unit_is_no_wrong_figure() -> None:
    other = replace(CHARTS[0], unit="billion" if CHARTS[0].unit != "billion" else "")

    result = score(CHARTS, [other.answer(), *RIGHT[1:]])

    assert (result.exact, result.figures) == (1.0, 1.0)
    assert result.whole == 5 / 6


def test_a_figure_is_right_in_its_place_alone() -> None:
    turned = replace(CHARTS[0], periods=CHARTS[0].periods[::-1])

    result = score(CHARTS, [turned.answer(), *RIGHT[1:]])

    assert result.exact == 5 / 6
    assert 0.8 < result.figures < 1


def test_what_is_no_json_has_nothing_right() -> None:
    assert score(CHARTS[:1], ["I see a chart."]).figures == 0
    assert score(CHARTS[:1], ["[1]"]).exact == 0


def test_an_examination_asks_everything_the_model_is_taught() -> None:
    asked = examination(ITEMS, 1)

    tasks = {each.task for each in asked}
    assert tasks == {*dialogues.TASK_WEIGHTS, "compare", "no image"}
    assert {len(each.query.images) for each in asked if each.task == "compare"} == {2}
    assert {len(each.query.images) for each in asked if each.task == "no image"} == {0}


def test_marks_are_given_by_task() -> None:
    asked = [each for each in examination(ITEMS, 1) if each.task in ("json", "highest")]
    answers = [Answer(each.expected if each.task == "json" else "?", ()) for each in asked]

    assert by_task(asked, answers) == {"json": 1.0, "highest": 0.0}


def test_batches_hold_queries_that_need_no_padding() -> None:
    small, large = Image.new("RGB", (288, 224)), Image.new("RGB", (352, 192))
    queries = [Query((small,), "a"), Query((large,), "a"), Query((small,), "b"), Query((small,), "a")]

    assert list(alike(queries, batch=8)) == [[0, 3], [1], [2]]
    assert list(alike(queries[:1] * 3, batch=2)) == [[0, 1], [2]]


def test_agreement_is_by_tokens_where_both_have_them() -> None:
    assert agreement([Answer("a", (1,))], [Answer("a", (2,))]) == 0
    assert agreement([Answer("a", (1,))], [Answer("a", ())]) == 1
