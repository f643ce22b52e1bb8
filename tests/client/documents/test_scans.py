from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pypdfium2 as pdfium  # type: ignore[import-untyped]
import pytest
from PIL import Image

from client.documents import PageRead, figures_of
from client.documents.ink import inked
from client.documents.models import Box
from client.documents.regions import Region, overlap
from client.documents.scans import merged
from client.documents.turns import Upright, upright
from client.samples.scans import Scanner, scan_document
from tests.client.documents.drawing import CHART, HEIGHT, bars, pdf

pytestmark = pytest.mark.timeout(180)  # models are loaded, which takes seconds on a busy machine

SCALE = 150 / 72
SIZE = (595.0, 842.0)


def words(canvas: Any) -> None:
    for line in range(16):
        canvas.drawString(
            60, HEIGHT - 450 - 17 * line, "The group kept to its core business, and its costs fell again."
        )


def page(canvas: Any) -> None:
    words(canvas)
    bars(canvas)


def scanned(tmp_path: Path, scanner: Scanner, draw: Any = page) -> Path:
    scan_document(pdf(tmp_path / "drawn.pdf", draw), tmp_path / "scan.pdf", scanner)
    return tmp_path / "scan.pdf"


def picture(path: Path) -> Any:
    with pdfium.PdfDocument(path) as document:
        sheet = document[0]
        pixels = sheet.render(scale=SCALE, rev_byteorder=True).to_numpy()[:, :, :3].copy()
        sheet.close()
    return pixels


def ink(page: Upright) -> list[Region]:
    return inked(cv2.cvtColor(page.picture, cv2.COLOR_RGB2GRAY), page.scale)


@pytest.mark.parametrize(
    "scanner",
    [
        Scanner(),
        Scanner(dpi=100, tilt=1.6, noise=20),
        Scanner(tilt=-1.2, turned=90),
        Scanner(turned=180),
        Scanner(turned=270, noise=16),
    ],
    ids=str,
)
def test_a_scan_is_put_upright_and_its_chart_is_found_by_its_ink(tmp_path: Path, scanner: Scanner) -> None:
    put = upright(picture(scanned(tmp_path, scanner)), SCALE)
    assert put.turned == -scanner.turned % 360
    assert put.tilt == pytest.approx(scanner.tilt, abs=0.4)
    (found,) = ink(put)
    assert found.kind == "figure"
    assert overlap(put.shown(found.box), scanner.moved(CHART, SIZE)) > 0.6


def test_text_alone_is_no_figure(tmp_path: Path) -> None:
    put = upright(picture(scanned(tmp_path, Scanner(tilt=1.0, noise=20), words)), SCALE)
    assert ink(put) == []


@pytest.mark.ring3
async def test_the_image_of_a_turned_scan_is_upright(tmp_path: Path) -> None:
    scanner = Scanner(turned=90)
    path = scanned(tmp_path, scanner)
    events = [event async for event in figures_of(path, tmp_path / "images") if isinstance(event, PageRead)]
    (figure,) = events[0].figures
    assert (figure.scanned, figure.turned) == (True, 270)
    assert figure.caption.replace(" ", "") == "Figure1:Revenue(CNYmillion)"
    assert overlap(figure.box, scanner.moved(CHART, SIZE)) > 0.5
    with Image.open(figure.image) as image:
        assert image.width > image.height  # as the chart is; on the page it stands upright
    assert figure.box[3] - figure.box[1] > figure.box[2] - figure.box[0]


SEEN: Box = (100, 200, 300, 300)


@pytest.mark.parametrize(
    ("ink", "kind", "expected"),
    [
        ((100, 150, 300, 300), "figure", [(100, 150, 300, 300)]),
        ((120, 220, 180, 250), "figure", [SEEN]),
        ((120, 220, 280, 290), "figure", [(120, 220, 280, 290)]),
        ((100, 500, 300, 600), "figure", [SEEN, (100, 500, 300, 600)]),
        ((100, 150, 300, 300), "table", [SEEN]),
    ],
    ids=[
        "the model saw half",
        "ink shows a part",
        "the model saw more",
        "the model missed it",
        "ink takes a table for a figure",
    ],
)
def test_the_models_regions_and_those_of_ink(ink: Box, kind: Any, expected: list[Box]) -> None:
    found = merged([Region(SEEN, kind)], [Region(ink, "figure")])
    assert [region.box for region in found] == expected
