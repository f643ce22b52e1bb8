from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from PIL import ImageFilter

from serving.demo.charts import wording
from serving.demo.charts.canvas import Canvas, Color, Drawing, Role
from serving.demo.charts.chart import Chart
from serving.demo.charts.fonts import Face, text_width
from serving.demo.charts.style import SIZES, Style, blend, draw_style, luminance

SMALLEST = 10.0


def fitted(face: Face, size: float, texts: Sequence[str], room: float, smallest: float) -> float:
    """The largest size up to `size` at which every text is at most `room` wide, not below `smallest`."""
    while size > smallest and max(text_width(face, round(size), text) for text in texts) > room:
        size -= 0.5
    return size


def tick_values(top: float) -> list[float]:
    step = 10 ** math.floor(math.log10(max(top, 1e-9)))
    step *= 0.5 if top / step < 3 else 2 if top / step > 6 else 1
    return [step * i for i in range(math.floor(top / step) + 1)]


class Plot:
    """Draws one chart from the outside in: `top`, `bottom`, `left` and `right` bound what is still free."""

    def __init__(self, chart: Chart, style: Style, rng: random.Random) -> None:
        self.chart, self.style, self.rng = chart, style, rng
        self.canvas = Canvas(style.width, style.height, style.background)
        unit = style.scale
        self.top, self.bottom = rng.uniform(3, 9) * unit, style.height - rng.uniform(3, 8) * unit
        self.left, self.right = rng.uniform(5, 15) * unit, style.width - rng.uniform(5, 15) * unit
        self.values = wording.value_labels(chart, style.grouped)
        self.growth = wording.growth_labels(chart, style.signed)

    def draw(self) -> Drawing:
        self._title()
        if self.style.has_legend:
            self._legend()
        self._unit()
        self._axis_room()
        self._periods()
        self._bands()
        self._axes()
        if self.chart.kind == "line":
            self._line(self.chart.values, self._value_y, Role.VALUE)
        else:
            self._bars()
        if self.chart.kind == "combined":
            self._line(self.chart.growth or (), self._growth_y, Role.GROWTH)
        return self.canvas.finish()

    # around the plot

    def _title(self) -> None:
        style = self.style
        if not style.has_title:
            return
        text = wording.title(self.chart, self.rng, style.unit_in_title and bool(self.chart.unit))
        room = style.width - 10 * style.scale
        size = fitted(style.title_face, style.title_size, [text], room, SMALLEST * style.scale)
        place = self.rng.choice(("m", "m", "l"))
        x = style.width / 2 if place == "m" else 5 * style.scale
        self.canvas.text(x, self.top + size * 0.6, text, style.title_face, size, style.ink, anchor=place)
        if style.unit_in_title and self.chart.unit:
            self.canvas.mark(self.chart.unit, wording.unit_reading(self.chart.unit))
        self.top += size * 1.3 + self.rng.uniform(0, 5) * style.scale

    def _legend(self) -> None:
        style, chart, unit = self.style, self.chart, self.style.scale
        main = style.line if chart.kind == "line" else style.bar
        items = [(main, chart.measure)]
        if chart.kind == "combined":
            items.append((style.line, wording.growth_name(chart, self.rng)))
        widths = [18 * unit + text_width(style.face, round(style.small_size), text) for _, text in items]
        x = (style.width - sum(widths)) / 2 if self.rng.random() < 0.7 else style.width - sum(widths) - 4 * unit
        low = self.rng.random() < 0.4
        y = self.bottom - style.small_size * 0.6 if low else self.top + style.small_size * 0.6
        for (ink, text), width in zip(items, widths, strict=True):
            self.canvas.draw.rectangle((x, y - 3 * unit, x + 9 * unit, y + 3 * unit), fill=ink)
            self.canvas.text(x + 12 * unit, y, text, style.face, style.small_size, style.ink, anchor="l")
            x += width
        if low:
            self.bottom -= style.small_size * 1.4
        else:
            self.top += style.small_size * 1.5

    def _unit(self) -> None:
        style = self.style
        if not self.chart.unit or style.unit_in_title:
            return
        text, size = wording.unit_note(self.chart, self.rng), style.small_size
        x, anchor = (self.left, "l") if self.rng.random() < 0.7 else (self.right, "r")
        self.canvas.text(x, self.top + size * 0.6, text, style.face, size, style.ink, anchor=anchor)
        self.canvas.mark(self.chart.unit, wording.unit_reading(self.chart.unit))
        self.top += size * 1.4

    def _axis_room(self) -> None:
        if self.style.has_axis:
            widest = f"{max(self.chart.values):.0f}"
            self.left += text_width(self.style.face, round(self.style.small_size), widest) + 4 * self.style.scale

    def _periods(self) -> None:
        style, count = self.style, len(self.chart.periods)
        slot = (self.right - self.left) / count
        self.xs = [self.left + slot * (i + 0.5) for i in range(count)]
        self.slot = slot
        labels = wording.period_labels(self.chart, self.rng, style.two_line_periods)
        lines = [line for label in labels for line in label.split("\n")]
        smallest, size = SMALLEST * style.scale, style.period_size
        if not style.period_angle:
            size = fitted(style.face, size, lines, slot * 0.94, smallest)
        height = self._period_height(size, labels)
        self.axis = self.bottom - height
        for index, (x, label) in enumerate(zip(self.xs, labels, strict=True)):
            self._period(x, label, size, height, index)

    def _period_height(self, size: float, labels: list[str]) -> float:
        angle = math.radians(self.style.period_angle)
        width = max(text_width(self.style.face, round(size), label) for label in labels)
        if angle:
            return width * math.sin(angle) + size * (1.15 + math.cos(angle) * 0.4)
        return size * (1.35 + 1.15 * labels[0].count("\n"))

    def _period(self, x: float, label: str, size: float, height: float, index: int) -> None:
        style, year = self.style, str(self.chart.periods[index])
        if style.period_angle:
            angle = math.radians(style.period_angle)
            label = label.replace("\n", " ")
            half = text_width(style.face, round(size), label) * math.sin(angle) / 2
            y = self.axis + 0.45 * size + half + 0.3 * size * math.cos(angle)
            self._write(x, y, label, size, style.ink, Role.PERIOD, index, year, style.period_angle)
            return
        for row, line in enumerate(label.split("\n")):
            y = self.axis + size * (0.85 + 1.15 * row)
            role = Role.PERIOD if year in line else Role.OTHER
            self._write(x, y, line, size, style.ink, role, index, year if role else "")

    # the plot

    def _bands(self) -> None:
        """Heights at which values and growth may lie, with room for the labels above them."""
        style, chart, rng = self.style, self.chart, self.rng
        smallest = SMALLEST * style.scale
        self.value_size = fitted(style.face, style.value_size, self.values, self.slot * 0.96, smallest)
        free = self.axis - self.top
        self.growth_size = 0.0
        self.values_top = self.top + self.value_size * (2.5 if style.stacked_growth else 1.35)
        if chart.kind == "combined":
            self.growth_size = fitted(style.face, style.growth_size, self.growth, self.slot * 0.96, smallest)
            self.growth_top = self.top + self.growth_size * 1.4
            self.growth_bottom = self.top + max(free * rng.uniform(0.28, 0.4), self.growth_size * 2)
            self.values_top = self.growth_bottom + self.growth_size * 0.4 + self.value_size * 1.25
        if chart.kind == "line":
            self.values_top += 3 * style.scale
        self.values_top = min(self.values_top, self.axis - 4 * style.scale)
        highest, lowest = max(chart.values), min(chart.values)
        from_zero = chart.kind != "line" or rng.random() < 0.6
        self.base = 0.0 if from_zero else max(0.0, lowest - (highest - lowest + 0.1) * rng.uniform(0.4, 1.2))
        self.reach = rng.uniform(0.85, 1.0)

    def _value_y(self, value: float) -> float:
        share = (value - self.base) / max(1e-6, max(self.chart.values) - self.base)
        return self.axis - (self.axis - self.values_top) * share * self.reach

    def _growth_y(self, growth: float) -> float:
        figures = self.chart.growth or ()
        low, high = min(figures), max(figures)
        share = (growth - low) / (high - low) if high > low else 0.5
        return self.growth_bottom - (self.growth_bottom - self.growth_top) * share

    def _axes(self) -> None:
        style, draw = self.style, self.canvas.draw
        grid = blend(style.background, style.ink, 0.2)
        width = max(1, round(self.rng.uniform(0.6, 1.4) * style.scale))
        for tick in tick_values(max(self.chart.values)):
            y = self._value_y(tick)
            if tick < self.base or y < self.top:
                continue
            if style.has_grid:
                draw.line((self.left, y, self.right, y), fill=grid, width=max(1, round(0.6 * style.scale)))
            if style.has_axis:
                text = f"{tick:g}" if tick < 10000 else f"{tick:.0f}"
                x = self.left - 3 * style.scale
                self.canvas.text(x, y, text, style.face, style.small_size, style.ink, anchor="r")
        if self.rng.random() < 0.85:
            draw.line((self.left, self.axis, self.right, self.axis), fill=style.ink, width=width)
        if style.has_axis and self.rng.random() < 0.7:
            draw.line((self.left, self.top, self.left, self.axis), fill=style.ink, width=width)

    def _bars(self) -> None:
        style, rng = self.style, self.rng
        half = self.slot * rng.uniform(0.17, 0.37)
        inside, central = rng.random() < 0.22 and not style.stacked_growth, rng.random() < 0.4
        outline = style.ink if rng.random() < 0.2 else None
        white = (255, 255, 255) if luminance(style.bar) < 0.6 else (20, 20, 20)
        for index, (x, value) in enumerate(zip(self.xs, self.chart.values, strict=True)):
            y = self._value_y(value)
            self.canvas.draw.rectangle((x - half, y, x + half, max(y, self.axis)), fill=style.bar, outline=outline)
            width = text_width(style.face, round(self.value_size), self.values[index])
            if inside and self.axis - y > self.value_size * 1.5 and width < 2 * half - 2:
                middle = (y + self.axis) / 2 if central else y + self.value_size * 0.75
                self._value(x, middle, index, white)
            else:
                self._above(x, y, index)

    def _above(self, x: float, y: float, index: int) -> None:
        """The value over its bar, with the growth under it where one label carries both."""
        if not self.style.stacked_growth:
            self._value(x, y - self.value_size * 0.65, index, self.style.ink)
            return
        size = fitted(self.style.face, self.value_size, self.growth, self.slot * 0.96, SMALLEST * self.style.scale)
        self._value(x, y - self.value_size * 0.65 - size * 1.12, index, self.style.ink)
        self._grow(x, y - size * 0.65, index, size, self.style.ink)

    def _line(self, figures: Sequence[float], height: Callable[[float], float], role: Role) -> None:
        style, rng = self.style, self.rng
        points = [(x, height(figure)) for x, figure in zip(self.xs, figures, strict=True)]
        width = max(1, round(rng.uniform(1, 2.4) * style.scale))
        self.canvas.draw.line(points, fill=style.line, width=width, joint="curve")
        radius, shape = rng.uniform(1.8, 3.4) * style.scale, rng.choice("osdn")
        for x, y in points:
            self._marker(x, y, radius, shape)
        self._line_labels(points, radius, role)

    def _line_labels(self, points: list[tuple[float, float]], radius: float, role: Role) -> None:
        """Labels over the points, those of values in a dip also under them."""
        style, rng = self.style, self.rng
        texts, size = (self.growth, self.growth_size) if role is Role.GROWTH else (self.values, self.value_size)
        tinted = abs(luminance(style.line) - luminance(style.background)) > 0.4 and rng.random() < 0.3
        ink = style.line if tinted else style.ink
        halo, dips = rng.random() < 0.4, role is Role.VALUE and rng.random() < 0.6
        for index, (x, y) in enumerate(points):
            neighbours = [points[i][1] for i in (index - 1, index + 1) if 0 <= i < len(points)]
            below = dips and all(n < y - 3 for n in neighbours) and y + radius + size * 1.4 < self.axis
            middle = y + (radius + size * 0.65) * (1 if below else -1)
            if halo:
                self._halo(x, middle, texts[index], size)
            if role is Role.GROWTH:
                self._grow(x, middle, index, size, ink)
            else:
                self._value(x, middle, index, ink)

    def _marker(self, x: float, y: float, r: float, shape: str) -> None:
        box, draw, ink = (x - r, y - r, x + r, y + r), self.canvas.draw, self.style.line
        if shape == "o":
            draw.ellipse(box, fill=ink)
        elif shape == "s":
            draw.rectangle(box, fill=ink)
        elif shape == "d":
            draw.polygon(((x, y - r), (x + r, y), (x, y + r), (x - r, y)), fill=ink)

    def _halo(self, x: float, y: float, text: str, size: float) -> None:
        half = text_width(self.style.face, round(size), text) / 2 + 1
        self.canvas.draw.rectangle((x - half, y - size * 0.5, x + half, y + size * 0.5), fill=self.style.background)

    def _value(self, x: float, y: float, index: int, ink: Color) -> None:
        reading = self.chart.value_text(index)
        self._write(x, y, self.values[index], self.value_size, ink, Role.VALUE, index, reading)

    def _grow(self, x: float, y: float, index: int, size: float, ink: Color) -> None:
        reading = self.chart.growth_text(index)
        self._write(x, y, self.growth[index], size, ink, Role.GROWTH, index, reading)

    def _write(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        ink: Color,
        role: Role,
        index: int,
        reading: str,
        angle: float = 0.0,
    ) -> None:
        self.canvas.text(x, y, text, self.style.face, size, ink, angle=angle, role=role, index=index, reading=reading)


class PillowRenderer:
    name = "pillow"

    def render(
        self,
        chart: Chart,
        rng: random.Random,
        variety: float = 1.0,
        sizes: Sequence[tuple[int, int]] = SIZES,
    ) -> Drawing:
        drawing = Plot(chart, draw_style(chart, rng, variety, sizes), rng).draw()
        if rng.random() < 0.1:
            blurred = drawing.image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.6)))
            return Drawing(blurred, drawing.labels)
        return drawing
