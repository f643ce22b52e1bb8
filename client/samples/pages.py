from __future__ import annotations

import io
import random
from dataclasses import dataclass, field
from typing import Any

from client.samples import wording
from client.samples.charts import chart_pdf, draw_look
from client.samples.fonts import Fonts
from client.samples.story import Plate, Report

WIDTH, HEIGHT = 595.0, 842.0
"""A4, in points."""
MARGIN, BODY, LEADING = 62.0, 10.5, 17.0
CHART_SIZES = ((240.0, 187.0), (260.0, 200.0), (300.0, 200.0), (340.0, 210.0))
Box = tuple[float, float, float, float]
_FONT = "SampleText"


@dataclass(frozen=True)
class Placed:
    """A figure on a page: `page` from 1, `box` left, top, right, bottom in points from the page's upper left."""

    page: int
    box: Box
    kind: str
    caption: str
    plate: Plate | None = None


@dataclass
class Pages:
    """A report laid out: its text as a PDF, where the figures are, and the charts that are still to be put there."""

    text: bytes = b""
    placed: list[Placed] = field(default_factory=list)
    charts: list[bytes] = field(default_factory=list)
    scanned: set[int] = field(default_factory=set)


class Layout:
    """Writes a report's pages from the top down. `y` is the distance from the page's upper edge, in points."""

    def __init__(self, report: Report, fonts: Fonts, rng: random.Random) -> None:
        from reportlab.pdfbase import pdfmetrics  # type: ignore[import-untyped]
        from reportlab.pdfbase.ttfonts import TTFont  # type: ignore[import-untyped]
        from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

        pdfmetrics.registerFont(TTFont(_FONT, str(fonts.chinese)))
        self.report, self.fonts, self.rng = report, fonts, rng
        self.stream = io.BytesIO()
        self.canvas: Any = Canvas(self.stream, pagesize=(WIDTH, HEIGHT), pageCompression=1, invariant=1)
        self.canvas.setTitle(f"{report.name} {report.year}")
        self.pages, self.page, self.y = Pages(), 1, MARGIN
        self.accent = rng.choice(((0.10, 0.25, 0.45), (0.45, 0.12, 0.15), (0.08, 0.35, 0.30)))

    def write(self) -> Pages:
        report = self.report
        self._cover()
        self._heading("letter")
        self._paragraphs((0, 1, 2, 5, 6, 3))
        self._next_page()
        self._heading("summary")
        self._paragraphs([1])
        self._table()
        self._plate(report.plates[0])
        self._next_page()
        self._heading("discussion")
        self._paragraphs([0, 2])
        self._plate(report.plates[1])
        self._paragraphs([3])
        self._plate(report.plates[2])
        self._next_page()
        self._heading("scan")
        self._paragraphs([0, 2])
        self._plate(report.plates[3])
        self._paragraphs([1, 3])
        self.pages.scanned.add(self.page)
        self._next_page()
        self._heading("governance")
        self._paragraphs((4, 7, 6))
        self.canvas.save()
        self.pages.text = self.stream.getvalue()
        return self.pages

    def _text(self, x: float, y: float, text: str, size: float, anchor: str = "l") -> None:
        self.canvas.setFont(_FONT, size)
        draw = {"l": self.canvas.drawString, "m": self.canvas.drawCentredString, "r": self.canvas.drawRightString}
        draw[anchor](x, HEIGHT - y, text)

    def _cover(self) -> None:
        canvas, report = self.canvas, self.report
        canvas.setFillColorRGB(*self.accent)
        canvas.rect(0, 0.42 * HEIGHT, WIDTH, 0.58 * HEIGHT, stroke=0, fill=1)
        canvas.setFillColorRGB(1, 1, 1)
        self._text(MARGIN, 200, report.names[0], 34)
        self._text(MARGIN, 240, report.names[1], 20)
        canvas.setFillColorRGB(*self.accent)
        self._text(MARGIN, 560, wording.ANNUAL_REPORT.format(year=report.year), 24)
        self._text(MARGIN, 590, f"Annual Report {report.year}", 16)
        self._next_page()

    def _next_page(self) -> None:
        self.canvas.showPage()
        self.page, self.y = self.page + 1, MARGIN + 14
        english = self.report.language == "en"
        head = wording.PAGE_HEAD[english].format(name=self.report.name, year=self.report.year)
        self.canvas.setFillColorRGB(0.4, 0.4, 0.4)
        self._text(MARGIN, 44, head, 8.5)
        self._text(WIDTH - MARGIN, HEIGHT - 36, str(self.page), 8.5, "r")
        self.canvas.setStrokeColorRGB(*self.accent)
        self.canvas.setLineWidth(0.7)
        self.canvas.line(MARGIN, HEIGHT - 50, WIDTH - MARGIN, HEIGHT - 50)

    def _heading(self, name: str) -> None:
        chinese, english = wording.HEADINGS[name]
        self.canvas.setFillColorRGB(*self.accent)
        self._text(MARGIN, self.y + 14, chinese, 17)
        self._text(MARGIN, self.y + 31, english, 10)
        self.y += 54

    def _paragraphs(self, numbers: Any) -> None:
        texts = wording.PARAGRAPHS[self.report.language]
        self.canvas.setFillColorRGB(0.12, 0.12, 0.12)
        for number in numbers:
            for line in _wrapped(self._filled(texts[number]), WIDTH - 2 * MARGIN):
                self.y += LEADING
                self._text(MARGIN, self.y, line, BODY)
            self.y += 7

    def _filled(self, text: str) -> str:
        chart = self.report.plates[0].chart
        figure = (chart.growth or (0.0,))[-1]
        moved = wording.MOVED[chart.language][figure >= 0]
        return text.format(
            industry=self.report.industry, measure=chart.measure, value=f"{chart.values[-1]:.1f}", unit=chart.unit,
            growth=f"{abs(figure):.1f}", moved=moved,
        )  # fmt: skip

    def _plate(self, plate: Plate) -> None:
        size = self.rng.choice(CHART_SIZES)
        left = MARGIN if self.rng.random() < 0.3 else (WIDTH - size[0]) / 2
        top = self.y + 14
        box = (left, top, left + size[0], top + size[1])
        font = self.fonts.chinese if plate.chart.language == "zh" else self.rng.choice(self.fonts.latin)
        self.pages.charts.append(chart_pdf(plate.chart, draw_look(plate.chart, self.rng, size, font), self.rng))
        self.pages.placed.append(Placed(self.page, box, "chart", plate.caption, plate))
        self._caption((left + left + size[0]) / 2, box[3] + 13, plate.caption)
        self.y = box[3] + 24

    def _caption(self, x: float, y: float, text: str) -> None:
        self.canvas.setFillColorRGB(0.25, 0.25, 0.25)
        self._text(x, y, text, 9, "m")
        self.canvas.setFillColorRGB(0.12, 0.12, 0.12)

    def _table(self) -> None:
        table, canvas = self.report.table, self.canvas
        self._caption(WIDTH / 2, self.y + 16, self.report.table_caption)
        top, row, left, right = self.y + 24, 21.0, MARGIN, WIDTH - MARGIN
        column = (right - left) / (len(table.periods) + 1.6)
        bottom = top + row * (len(table.rows) + 1)
        canvas.setFillColorRGB(*(0.85 + 0.15 * part for part in self.accent))
        canvas.rect(left, HEIGHT - top - row, right - left, row, stroke=0, fill=1)
        canvas.setFillColorRGB(0.12, 0.12, 0.12)
        head = (wording.TABLE_HEAD[self.report.language], tuple(map(str, table.periods)))
        body = [(name, tuple(f"{value:,.1f}" for value in values)) for name, values in table.rows]
        for place, (name, cells) in enumerate([head, *body]):
            base = top + row * place + 14
            self._text(left + 6, base, name, 9.5)
            for number, cell in enumerate(cells):
                self._text(right - 8 - column * (len(cells) - 1 - number), base, cell, 9.5, "r")
        canvas.setStrokeColorRGB(0.55, 0.55, 0.55)
        canvas.setLineWidth(0.5)
        for line in range(len(table.rows) + 2):
            canvas.line(left, HEIGHT - top - row * line, right, HEIGHT - top - row * line)
        self.pages.placed.append(Placed(self.page, (left, top, right, bottom), "table", self.report.table_caption))
        self.y = bottom + 6


def lay_out(report: Report, fonts: Fonts, rng: random.Random) -> Pages:
    """The pages of a report, charts still apart. Each chart's box is where `assemble` will put it."""
    return Layout(report, fonts, rng).write()


def _wrapped(text: str, width: float) -> list[str]:
    """Lines of `text`: Chinese breaks anywhere, English between words."""
    from reportlab.pdfbase.pdfmetrics import stringWidth  # type: ignore[import-untyped]

    chinese = any(ord(letter) > 0x2E7F for letter in text)
    parts, joint = (list(text), "") if chinese else (text.split(), " ")
    lines, line = [], ""
    for part in parts:
        longer = f"{line}{joint}{part}" if line else part
        if line and stringWidth(longer, _FONT, BODY) > width:
            lines.append(line)
            line = part
        else:
            line = longer
    return [*lines, line]
