from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pypdfium2 as pdfium  # type: ignore[import-untyped]
import pytest

from client.documents.models import Box
from client.documents.objects import is_scanned, joined, lines_of, marks_of
from client.documents.regions import Line, Mark, Region, caption_of, find_regions, overlap
from tests.client.documents.drawing import CHART, TABLE, bars, pdf, picture, pie, table, text


def regions(path: Path, number: int = 0) -> list[Region]:
    with pdfium.PdfDocument(path) as document:
        page = document[number]
        width, height = page.get_size()
        found = find_regions(marks_of(page), lines_of(page), width, height)
        page.close()
    return found


def test_a_chart_without_a_form_around_it(tmp_path: Path) -> None:
    """Bars that do not touch are tied by their axis; the years under it belong to them, the caption does not."""
    (found,) = regions(pdf(tmp_path / "a.pdf", bars))
    assert (found.kind, found.caption) == ("figure", "Figure 1: Revenue (CNY million)")
    assert overlap(found.box, CHART) > 0.75
    assert found.box[3] < CHART[3] + 4


def test_a_pie(tmp_path: Path) -> None:
    (found,) = regions(pdf(tmp_path / "a.pdf", pie))
    assert found.kind == "figure"


def test_a_table(tmp_path: Path) -> None:
    (found,) = regions(pdf(tmp_path / "a.pdf", table))
    assert (found.kind, found.caption) == ("table", "Table 1: Summary (CNY million)")
    assert overlap(found.box, TABLE) > 0.97


def test_a_picture(tmp_path: Path) -> None:
    (found,) = regions(pdf(tmp_path / "a.pdf", picture))
    assert (found.kind, found.raster) == ("figure", True)
    assert overlap(found.box, (100, 292, 300, 442)) > 0.98


def test_text_and_the_rules_of_a_page_are_no_figures(tmp_path: Path) -> None:
    assert regions(pdf(tmp_path / "a.pdf", text)) == []


def test_chart_and_table_of_one_page_stay_apart(tmp_path: Path) -> None:
    def both(canvas: Any) -> None:
        bars(canvas)
        table(canvas)

    assert [found.kind for found in regions(pdf(tmp_path / "a.pdf", both))] == ["figure", "table"]


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_a_turned_page(tmp_path: Path, turned: int) -> None:
    """The box is where a reader sees the figure, whatever the file calls up."""

    with pdfium.PdfDocument(pdf(tmp_path / "a.pdf", table)) as document:
        document[0].set_rotation(turned)
        document.save(tmp_path / "turned.pdf")
    with pdfium.PdfDocument(tmp_path / "turned.pdf") as document:
        page = document[0]
        marks, (width, height) = marks_of(page), page.get_size()
        page.close()
    left, top, right, bottom = TABLE
    expected = {90: (842 - bottom, left), 180: (595 - right, 842 - bottom), 270: (top, 595 - right)}[turned]
    assert min(mark.box[0] for mark in marks) == pytest.approx(expected[0], abs=1)
    assert min(mark.box[1] for mark in marks) == pytest.approx(expected[1], abs=1)
    assert (width, height) == ((595, 842) if turned == 180 else (842, 595))


def test_a_scan_is_one_picture_on_the_whole_page() -> None:
    page = type("Page", (), {"get_size": lambda self: (595.0, 842.0)})()
    assert is_scanned(page, [Mark((0, 0, 595, 842), plain=False, raster=True)])
    assert not is_scanned(page, [Mark((100, 100, 400, 400), plain=False, raster=True)])


def test_a_background_ties_nothing() -> None:
    marks = [Mark((0, 0, 595, 842), filled=True), *bar_marks(100, 300)]
    (found,) = find_regions(marks, [], 595, 842)
    assert found.box == (100, 300, 260, 400)


def bar_marks(left: float, top: float) -> list[Mark]:
    axis = Mark((left, top + 99, left + 160, top + 100))
    heights = (40, 70, 99)
    solid = [
        Mark((left + 10 + 50 * i, top + 99 - h, left + 40 + 50 * i, top + 99), filled=True)
        for i, h in enumerate(heights)
    ]
    return [axis, *solid]


@pytest.mark.parametrize(
    ("marks", "kinds"),
    [
        (bar_marks(100, 300), ["figure"]),
        ([*bar_marks(60, 300), *bar_marks(320, 300)], ["figure", "figure"]),
        ([Mark((100, 100, 400, 200))], []),
        ([Mark((100, 100, 110, 110), plain=False)], []),
        ([], []),
    ],
    ids=["bars", "two charts side by side", "a frame", "an icon", "nothing"],
)
def test_what_is_drawn(marks: Sequence[Mark], kinds: list[str]) -> None:
    assert [found.kind for found in find_regions(marks, [], 595, 842)] == kinds


def test_marks_of_a_form_stay_together() -> None:
    """A line chart and its legend, far apart, that its producer put into one form."""
    marks = [Mark((100, 100, 300, 180), plain=False, group=1), Mark((100, 220, 300, 240), filled=True, group=1)]
    (found,) = find_regions(marks, [], 595, 842)
    assert (found.box, found.whole) == ((100, 100, 300, 240), True)


CHART_BOX: Box = (100, 200, 300, 300)


@pytest.mark.parametrize(
    ("lines", "caption"),
    [
        ([((120, 306, 280, 316), "图1 营业收入")], "图1 营业收入"),
        ([((120, 306, 280, 316), "Fig. 2: Profit")], "Fig. 2: Profit"),
        ([((120, 306, 280, 316), "图表 十二：毛利率")], "图表 十二：毛利率"),
        ([((120, 306, 280, 316), "Our profits rose.")], ""),
        ([((120, 360, 280, 370), "图1 营业收入")], ""),
        ([((320, 306, 480, 316), "图2 beside")], ""),
        ([((120, 182, 280, 192), "图1 over"), ((120, 306, 280, 316), "图2 under")], "图2 under"),
    ],
)
def test_captions(lines: list[tuple[Box, str]], caption: str) -> None:
    assert caption_of(CHART_BOX, "figure", [Line(*line) for line in lines]) == caption


def test_a_tables_caption_stands_over_it() -> None:
    lines = [Line((120, 182, 280, 192), "表1 over"), Line((120, 306, 280, 316), "表2 under")]
    assert caption_of(CHART_BOX, "table", lines) == "表1 over"


def test_pieces_of_a_line_are_joined() -> None:
    """A producer that cuts its font into several writes one Chinese line in pieces."""
    pieces = [
        Line((100, 100, 110, 110), "图"), Line((110, 101, 116, 110), "1"), Line((119, 100, 160, 110), "营业收入"),
        Line((300, 100, 340, 110), "another"), Line((100, 130, 140, 140), "below"),
    ]  # fmt: skip
    assert [line.text for line in joined(pieces)] == ["图1 营业收入", "another", "below"]
