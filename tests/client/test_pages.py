from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from reportlab.lib.pdfencrypt import StandardEncryption  # type: ignore[import-untyped]
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

from client.models import Skipped
from client.pages import Page
from client.questions import Item, bytes_of, load
from client.sources import questions

Report = Callable[..., Path]


@pytest.fixture
def report(tmp_path: Path) -> Report:
    def make(pages: int, password: str | None = None) -> Path:
        path = tmp_path / "report.pdf"
        canvas = Canvas(str(path), (300, 200), encrypt=StandardEncryption(password) if password else None)
        for number in range(1, pages + 1):
            canvas.drawString(40, 100, f"page {number}")
            canvas.showPage()
        canvas.save()
        return path

    return make


def test_a_question_per_page(report: Report, tmp_path: Path) -> None:
    path = report(3)
    found = list(questions([str(tmp_path)]))
    assert [question.name for question in found] == [f"{path}#page={number}" for number in (1, 2, 3)]
    items = [load(question) for question in found]
    assert all(isinstance(item, Item) for item in items)
    assert len({item.digest for item in items if isinstance(item, Item)}) == 3


def test_a_page_is_drawn_when_it_is_asked_about(report: Report) -> None:
    page = Page(report(1), 1)
    with Image.open(io.BytesIO(bytes_of(page))) as image:
        assert (image.format, image.size) == ("JPEG", (600, 400))
        assert min(image.convert("L").tobytes()) < 100, "there are words on it"


def test_the_same_page_has_the_same_digest(report: Report) -> None:
    path = report(2)
    assert Page(path, 1).digest() == Page(path, 1).digest() != Page(path, 2).digest()


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "the PDF cannot be read"), (b"%PDF-1.7 and nothing more", "the PDF cannot be read")]
)
def test_a_broken_one_is_skipped(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "broken.pdf").write_bytes(data)
    [question] = questions([str(tmp_path / "broken.pdf")])
    skipped = load(question)
    assert isinstance(skipped, Skipped)
    assert skipped.reason.startswith(reason)


def test_an_encrypted_one_is_skipped(report: Report) -> None:
    [question] = questions([str(report(2, "secret"))])
    assert load(question) == Skipped(question.name, "the PDF is encrypted")


def test_one_that_vanishes(report: Report) -> None:
    path = report(2)
    _, second = questions([str(path)])
    path.unlink()
    skipped = load(second)
    assert isinstance(skipped, Skipped)
    assert "No such file" in skipped.reason
