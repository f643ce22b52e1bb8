from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from client.models import Done, Failed, Job, Record, Skipped, Usage
from client.report import SHOWN, THUMBNAIL, Summary, thumbnail, write_page
from client.scoring import Expected, Score
from tests.client.conftest import png

JOB = Job("读出 <所有> 数据")
ATTACK = "<script>alert(1)</script>\"'&"


def done(file: Path | str, answer: str, duplicate_of: str | None = None) -> Done:
    return Done(str(file), "k", answer, None, "stop", Usage(100, 10, 110, 80), "r", "m", 0.25, 1, duplicate_of)


class Cards(HTMLParser):
    """The kinds of a page's cards in their order, and every address that it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: list[str] = []
        self.addresses: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "article":
            self.kinds.append(values["class"].removeprefix("card "))
        self.scripts += tag == "script"
        self.addresses += [values[name] for name in ("src", "href", "srcset", "action") if name in values]


def page(path: Path, records: Iterable[Record], expected: Expected | None = None) -> tuple[str, Cards, Summary]:
    kept = list(records)
    summary = write_page(path, lambda: kept, JOB, expected)
    html = path.read_text("utf-8")
    cards = Cards()
    cards.feed(html)
    return html, cards, summary


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(png(size=(1600, 1200)))
    return path


def test_errors_first(tmp_path: Path) -> None:
    records: list[Record] = [
        done("right.png", '{"v": 1}'),
        done("unknown.png", "words"),
        Skipped("note.txt", "not an image"),
        done("wrong.png", '{"v": 2}'),
        Failed("failed.png", "k", "refused", "InvalidParameter", 400, "r", 2),
    ]
    expected = Expected({"right.png": {"v": 1}, "wrong.png": {"v": 1}, "failed.png": {"v": 1}})
    html, cards, summary = page(tmp_path / "page.html", records, expected)
    assert cards.kinds == ["failed", "wrong", "skipped", "done", "right"]
    assert summary.score == Score(1, 3)
    assert summary.usage == Usage(300, 30, 330, 240)
    assert "<strong>1/3</strong>" in html
    assert "HTTP 400, InvalidParameter, attempts: 2, request r" in html


def test_it_needs_nothing_from_outside(tmp_path: Path, image: Path) -> None:
    html, cards, _ = page(tmp_path / "page.html", [done(image, "x")])
    assert cards.addresses
    assert all(address.startswith("data:") for address in cards.addresses)
    assert "@import" not in html
    assert "url(" not in html


def test_what_models_and_users_write_stays_text(tmp_path: Path) -> None:
    records: list[Record] = [
        done(f"{ATTACK}.png", ATTACK),
        done("b.png", f'{{"{"<img src=x>"}": "<img src=x>"}}'),
        Failed(ATTACK, "k", ATTACK, ATTACK, 400, ATTACK, answer=ATTACK),
        Skipped(ATTACK, ATTACK),
        done("c.png", "x", duplicate_of=ATTACK),
    ]
    html, cards, _ = page(tmp_path / "page.html", records, Expected({"b.png": {"<img src=x>": ATTACK}}))
    assert cards.scripts == 1, "the page's own"
    assert not cards.addresses
    assert "读出 &lt;所有&gt; 数据" in html


def test_what_differs_is_marked_on_both_sides(tmp_path: Path) -> None:
    expected = Expected({"a.png": {"year": [2020, 2021], "unit": "亿"}})
    html, _, _ = page(tmp_path / "page.html", [done("a.png", 'So: {"year": [2020, 2012]}')], expected)
    assert re.findall("<mark>(.*?)</mark>", html) == ["2012", "2021", '"亿"']


def test_words_around_the_json_are_shown_too(tmp_path: Path) -> None:
    html, _, _ = page(tmp_path / "page.html", [done("a.png", "Revenue grew in [2020, 2021], says <it>.")])
    assert "<pre>" not in html
    assert "Revenue grew in [2020, 2021], says &lt;it&gt;." in html
    html, _, _ = page(tmp_path / "page.html", [done("a.png", '[1] says {"v": 1}')], Expected({"a.png": {"v": 2}}))
    assert "[1] says {&quot;v&quot;: 1}" in html
    html, _, _ = page(tmp_path / "page.html", [done("a.png", '```json\n{"v": 1}\n```')])
    assert "```" not in html


def test_a_thumbnail_beside_the_answer(tmp_path: Path, image: Path) -> None:
    _, cards, _ = page(tmp_path / "page.html", [done(image, "x")])
    kind, _, data = cards.addresses[0].partition(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as small:
        assert small.size[0] <= THUMBNAIL[0]
        assert small.size[1] <= THUMBNAIL[1]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_thumbnails_of_every_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tiff"
    Image.new(mode, (30, 20)).save(path)
    assert thumbnail(path)


def test_no_thumbnail_is_no_accident(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(png()[:30])
    Image.new("1", (20000, 20000)).save(tmp_path / "huge.png")
    html, _, _ = page(
        tmp_path / "p.html", [done(tmp_path / name, "x") for name in ("gone.png", "broken.png", "huge.png")]
    )
    assert html.count("no preview") == 3


def test_a_damaged_exif_block_is_no_accident(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.5
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    for at in range(20, 80):
        (tmp_path / "a.jpg").write_bytes(data[:at] + bytes([data[at] ^ 12]) + data[at + 1 :])
        thumbnail(tmp_path / "a.jpg")


def test_the_page_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")

    def failing() -> Iterable[Record]:
        assert path.read_text() == "old"
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_page(path, failing, JOB)
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_many_cards_wait_as_templates(tmp_path: Path) -> None:
    html, cards, _ = page(tmp_path / "p.html", [done(f"{number}.png", f"words {number}") for number in range(250)])
    assert len(cards.kinds) == 250
    assert html.count("<template>") == html.count("</template>") == 2
    assert html.split("<template>")[0].count("<article") == SHOWN


def test_many_thumbnails_are_small(tmp_path: Path, image: Path) -> None:
    _, few, _ = page(tmp_path / "few.html", [done(image, "x")])
    _, many, _ = page(tmp_path / "many.html", [done(image, "x"), *(done("gone", str(n)) for n in range(600))])
    assert len(many.addresses) == len(few.addresses) == 1
    with Image.open(io.BytesIO(base64.b64decode(many.addresses[0].partition(",")[2]))) as small:
        assert small.size == (373, 280)


def test_a_row_shows_its_first_image(tmp_path: Path, image: Path) -> None:
    row = replace(done("m.csv#2", "x"), images=(str(image), "b.png"))
    html, cards, _ = page(tmp_path / "p.html", [row])
    assert len(cards.addresses) == 1
    assert "b.png" in html


def test_a_duplicate_is_counted_but_not_paid(tmp_path: Path) -> None:
    html, _, summary = page(tmp_path / "p.html", [done("a.png", "x"), done("b.png", "x", duplicate_of="a.png")])
    assert summary.kinds["done"] == 2
    assert summary.usage.total_tokens == 110
    assert "same image as a.png" in html
