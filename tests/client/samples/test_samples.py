from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pypdfium2 as pdfium  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner

from client.samples.__main__ import main
from client.samples.charts import Language
from client.samples.story import draw_report

pytestmark = pytest.mark.timeout(180)  # the first text drawn builds matplotlib's list of fonts

COUNT = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    result = CliRunner().invoke(main, ["--out", str(folder), "--count", str(COUNT), "--seed", "5"])
    assert result.exit_code == 0, result.output
    return folder


def known(folder: Path, number: int) -> Any:
    return json.loads((folder / f"report-{number:03d}.json").read_text("utf-8"))


@pytest.mark.parametrize("number", range(1, COUNT + 1))
def test_the_text_of_a_chart_is_what_is_known_of_it(folder: Path, number: int) -> None:
    """All of it is vectors: the printed values can be found under the box that is told."""
    with pdfium.PdfDocument(folder / f"report-{number:03d}.pdf") as document:
        assert len(document) == 6
        for figure in known(folder, number)["figures"]:
            page = document[figure["page"] - 1]
            height = page.get_height()
            left, top, right, bottom = figure["box"]
            words = page.get_textpage().get_text_bounded(left, height - bottom, right, height - top)
            page.close()
            if figure["scanned"]:
                assert words == ""
            elif figure["kind"] == "chart":
                assert all(f"{value:.1f}" in words for value in figure["expected"]["values"])


def test_both_languages(folder: Path) -> None:
    assert [known(folder, number)["language"] for number in (1, 2)] == ["zh", "en"]


def test_a_scanned_page_is_a_picture(folder: Path) -> None:
    (scanned,) = {figure["page"] for figure in known(folder, 1)["figures"] if figure["scanned"]}
    with pdfium.PdfDocument(folder / "report-001.pdf") as document:
        page = document[scanned - 1]
        kinds = [each.type for each in page.get_objects()]
        page.close()
    assert kinds == [pdfium.raw.FPDF_PAGEOBJ_IMAGE]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_growth_is_that_of_the_printed_values(language: Language) -> None:
    for seed in range(50):
        for plate in draw_report(random.Random(seed), language).plates:
            chart = plate.chart
            if chart.growth is None:
                continue
            steps = [round(100 * (after / before - 1), 1) for before, after in pairwise(chart.values)]
            assert list(chart.growth[1:]) == steps


def test_the_same_seed_says_the_same() -> None:
    assert draw_report(random.Random(3), "zh") == draw_report(random.Random(3), "zh")
    assert draw_report(random.Random(3), "zh") != draw_report(random.Random(4), "zh")
