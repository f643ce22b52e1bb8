import json
import random
from pathlib import Path

import pytest

from serving.demo.charts import FontError, RendererName, draw_chart, draw_with, render, write_samples
from serving.demo.charts.canvas import Canvas, Role
from serving.demo.charts.chart import Chart
from serving.demo.charts.fonts import find_faces, installed, require_glyphs
from serving.demo.charts.sheets import draw_sheet
from serving.demo.charts.style import draw_style
from serving.demo.charts.wording import unit_reading

RENDERERS: tuple[RendererName, ...] = ("pillow", "matplotlib")


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_seed_draws_the_same_image_again(renderer: RendererName) -> None:
    first, second = random.Random(5), random.Random(5)
    one, other = draw_chart(first), draw_chart(second)
    assert one == other
    assert render(one, first, renderer).tobytes() == render(other, second, renderer).tobytes()


def test_ground_truth_is_consistent() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        chart = draw_chart(rng)
        count = len(chart.periods)
        assert 2 <= count <= 6
        assert len(chart.values) == count
        assert all(value > 0 for value in chart.values)
        assert chart.growth is None or len(chart.growth) == count
        assert json.loads(chart.answer()) == chart.expected()
        assert list(json.loads(chart.answer())) == list(chart.expected())


def test_every_declared_form_of_content_occurs() -> None:
    rng = random.Random(2)
    charts = [draw_chart(rng) for _ in range(1500)]
    assert {chart.kind for chart in charts} == {"bar", "line", "combined"}
    assert {chart.language for chart in charts} == {"zh", "en"}
    assert {chart.unit for chart in charts} == {"", "亿元", "万元", "百万元", "million", "billion"}
    assert {chart.decimals for chart in charts} == {0, 1, 2}
    assert {len(chart.periods) for chart in charts} == {2, 3, 4, 5, 6}
    assert any(g < 0 for chart in charts for g in chart.growth or ())
    assert any(chart.kind == "bar" and chart.growth for chart in charts)


def test_every_declared_look_occurs() -> None:
    rng = random.Random(3)
    styles = [draw_style(draw_chart(rng), rng) for _ in range(800)]
    for flag in ("dark", "has_title", "has_legend", "has_axis", "has_grid", "two_line_periods", "grouped", "signed"):
        assert {getattr(style, flag) for style in styles} == {True, False}, flag
    assert {style.period_angle for style in styles} == {0.0, 30.0, 45.0, 90.0}
    assert len({style.face for style in styles}) > 1


@pytest.mark.parametrize("renderer", RENDERERS)
def test_labels_name_every_figure_inside_the_image(renderer: RendererName) -> None:
    rng = random.Random(4)
    for _ in range(6):
        chart = draw_chart(rng)
        drawing = draw_with(renderer, chart, rng)
        read = {(label.role, label.index): label for label in drawing.labels if label.reading}
        for index, year in enumerate(chart.periods):
            assert read[Role.PERIOD, index].reading == str(year)
            assert read[Role.VALUE, index].reading == chart.value_text(index)
            if chart.growth:
                assert read[Role.GROWTH, index].reading == chart.growth_text(index)
        for label in read.values():
            assert 0 <= label.x < drawing.image.width
            assert 0 <= label.y < drawing.image.height


def test_a_label_lies_where_its_ink_is() -> None:
    canvas = Canvas(200, 80, (255, 255, 255))
    canvas.text(120, 40, "12.3", installed("en")[-1], 16, (0, 0, 0), role=Role.VALUE, reading="12.3")
    drawing = canvas.finish()
    left, top, right, bottom = drawing.image.convert("L").point(lambda p: 255 * (p < 128)).getbbox() or (0, 0, 0, 0)
    (label,) = drawing.labels
    assert label.x == pytest.approx((left + right) / 2, abs=2)
    assert label.y == pytest.approx((top + bottom) / 2, abs=3)
    assert [c for _, _, c in label.characters] == list("12.3")


def test_a_missing_glyph_is_an_error_that_says_what_to_install() -> None:
    latin = next(face for face in installed("en") if not face.chinese)
    with pytest.raises(FontError, match=r"营.*pip install mplfonts"):
        require_glyphs(latin, "营收")


def test_a_machine_without_chinese_fonts_has_no_chinese_face(tmp_path: Path) -> None:
    assert find_faces([tmp_path, tmp_path / "absent"], {"NotoSansCJK-Regular.ttc": 2}, chinese=True) == ()


def test_samples_come_with_their_answers(tmp_path: Path) -> None:
    paths = write_samples(tmp_path / "charts", 3, seed=11)
    lines = (tmp_path / "charts" / "expected.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["file"] for line in lines] == [path.name for path in paths]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert {"type", "unit", "years", "values", "growth"} == set(json.loads(lines[0])["expected"])


def test_growth_cannot_be_asked_of_a_chart_without() -> None:
    chart = Chart("bar", "en", "Acme", "Sales", "", (2020, 2021), (1.0, 2.0))
    with pytest.raises(ValueError, match="no growth"):
        chart.growth_text(0)


def test_the_unit_is_labelled_where_it_is_printed() -> None:
    rng = random.Random(6)
    for _ in range(30):
        chart = draw_chart(rng)
        units = [label for label in draw_with("pillow", chart, rng).labels if label.reading.startswith("--")]
        assert [label.reading for label in units] == ([unit_reading(chart.unit)] if chart.unit else [])


def test_a_sheet_has_many_figures_inside_it() -> None:
    drawing = draw_sheet(random.Random(7), 288, 224)
    assert len(drawing.labels) > 30
    assert all(0 <= label.x < 288 and 0 <= label.y < 224 for label in drawing.labels)
