from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from client.documents import Figure, Opened, PageFailed, PageRead, UnreadableDocument, digest_of, figures_of
from client.documents.worker import REOPEN_AFTER
from tests.client.documents.drawing import CHART, bars, pdf, table, text

pytestmark = pytest.mark.timeout(120)  # each document starts a process, which imports for seconds on a busy machine


async def found_in(path: Path, folder: Path, **options: Any) -> list[Figure]:
    return [
        figure
        async for event in figures_of(path, folder, **options)
        if isinstance(event, PageRead)
        for figure in event.figures
    ]


@pytest.mark.ring3
async def test_figures_are_saved_with_page_box_and_caption(tmp_path: Path) -> None:
    path = pdf(tmp_path / "report.pdf", text, bars, table)
    figures = await found_in(path, tmp_path / "images")
    chart, summary = figures
    assert (chart.page, chart.kind, chart.caption) == (2, "figure", "Figure 1: Revenue (CNY million)")
    assert (summary.page, summary.kind) == (3, "table")
    assert not chart.scanned
    assert "Revenue" in chart.nearby
    assert chart.digest == hashlib.sha256(chart.image.read_bytes()).hexdigest()
    with Image.open(chart.image) as image:
        width = chart.box[2] - chart.box[0]
        assert image.width == pytest.approx(width * 200 / 72, abs=2)
    assert chart.box[0] >= CHART[0] - 4
    again = await found_in(path, tmp_path / "images")
    assert again == figures


@pytest.mark.ring3
@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"\x89PNG....", "not a PDF"), (b"%PDF-1.7\n1 0 obj <<", "damaged")],
)
async def test_a_file_that_is_no_pdf(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "bad.pdf"
    path.write_bytes(data)
    with pytest.raises(UnreadableDocument, match=reason):
        await found_in(path, tmp_path / "images")


async def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDocument, match="not there"):
        await found_in(tmp_path / "gone.pdf", tmp_path / "images")


@pytest.mark.ring3
async def test_an_encrypted_file_needs_its_password(tmp_path: Path) -> None:
    path = pdf(tmp_path / "secret.pdf", bars, encrypt="open-sesame")
    with pytest.raises(UnreadableDocument, match="encrypted: pass its password"):
        await found_in(path, tmp_path / "images")
    assert len(await found_in(path, tmp_path / "images", password="open-sesame")) == 1


@pytest.mark.ring3
async def test_every_page_is_told_once_though_the_process_is_killed(tmp_path: Path) -> None:
    """Also over the page after which the document is opened anew."""
    pages = REOPEN_AFTER * 6
    path = pdf(tmp_path / "long.pdf", *[text] * pages)
    told: list[int] = []
    opened = failed = killed = 0
    async for event in figures_of(path, tmp_path / "images"):
        opened += isinstance(event, Opened)
        failed += isinstance(event, PageFailed)
        if isinstance(event, PageRead | PageFailed):
            told.append(event.page)
        if isinstance(event, PageRead) and event.page == 1:
            for child in psutil.Process().children():
                if "client.documents.worker" in child.cmdline():
                    child.kill()
                    killed += 1
    assert killed == 1
    assert told == list(range(1, pages + 1))
    assert opened == 1
    assert failed <= 1  # none where it died between two pages


@pytest.mark.ring3
async def test_a_process_that_takes_too_long_to_start(tmp_path: Path) -> None:
    path = pdf(tmp_path / "slow.pdf", text)
    with pytest.raises(UnreadableDocument, match="longer than 0 s"):
        await found_in(path, tmp_path / "images", patience=0.001)


async def test_the_digest_is_of_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(b"x" * 3_000_000)
    assert await digest_of(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
