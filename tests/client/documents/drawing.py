"""PDF pages with known figures, drawn straight onto the page as office programs do."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reportlab.graphics import renderPDF  # type: ignore[import-untyped]
from reportlab.graphics.charts.barcharts import VerticalBarChart  # type: ignore[import-untyped]
from reportlab.graphics.charts.piecharts import Pie  # type: ignore[import-untyped]
from reportlab.graphics.shapes import Drawing  # type: ignore[import-untyped]
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

HEIGHT = 842
Draw = Callable[[Any], None]

CHART = (150.0, 200.0, 390.0, 360.0)
TABLE = (80.0, 450.0, 480.0, 550.0)


def pdf(path: Path, *pages: Draw, **options: Any) -> Path:
    canvas = Canvas(str(path), pagesize=(595, HEIGHT), invariant=1, **options)
    for draw in pages:
        draw(canvas)
        canvas.showPage()
    canvas.save()
    return path


def text(canvas: Any) -> None:
    for line in range(20):
        canvas.drawString(60, HEIGHT - 80 - 16 * line, "The group kept to its core business, and its costs fell again.")
    canvas.line(60, HEIGHT - 50, 535, HEIGHT - 50)


def bars(canvas: Any) -> None:
    """A bar chart at `CHART`, without a form around it, and its caption."""
    left, top, right, bottom = CHART
    chart = VerticalBarChart()
    chart.x, chart.y, chart.width, chart.height = 25, 20, right - left - 30, bottom - top - 30
    chart.data = [(12.1, 14.3, 18.8)]
    chart.categoryAxis.categoryNames = ["2021", "2022", "2023"]
    drawing = Drawing(right - left, bottom - top)
    drawing.add(chart)
    renderPDF.draw(drawing, canvas, left, HEIGHT - bottom)
    canvas.drawCentredString((left + right) / 2, HEIGHT - bottom - 14, "Figure 1: Revenue (CNY million)")


def pie(canvas: Any) -> None:
    chart = Pie()
    chart.x, chart.y, chart.width, chart.height = 20, 20, 140, 140
    chart.data = [3, 4, 5]
    drawing = Drawing(200, 180)
    drawing.add(chart)
    renderPDF.draw(drawing, canvas, 100, 400)


def table(canvas: Any) -> None:
    """A ruled table at `TABLE`, and its caption above."""
    left, top, right, _ = TABLE
    canvas.drawString(left, HEIGHT - top + 8, "Table 1: Summary (CNY million)")
    for row in range(6):
        canvas.line(left, HEIGHT - top - 20 * row, right, HEIGHT - top - 20 * row)
    for row in range(5):
        for column, cell in enumerate(("Revenue", "12.1", "14.3", "18.8")):
            canvas.drawString(left + 6 + 100 * column, HEIGHT - top - 20 * row - 14, cell)


def picture(canvas: Any) -> None:
    from PIL import Image
    from reportlab.lib.utils import ImageReader  # type: ignore[import-untyped]

    stream = io.BytesIO()
    Image.linear_gradient("L").save(stream, "PNG")
    canvas.drawImage(ImageReader(stream), 100, 400, 200, 150)
