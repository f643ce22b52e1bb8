from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from PIL import Image

from serving.demo.charts import wording
from serving.demo.charts.canvas import Color, Drawing, Label, Role
from serving.demo.charts.chart import Chart
from serving.demo.charts.fonts import Face, require_glyphs, text_width
from serving.demo.charts.style import SIZES, Style, draw_style

DPI = 100


def points(pixels: float) -> float:
    return pixels * 72 / DPI


def shade(color: Color) -> tuple[float, float, float]:
    red, green, blue = (part / 255 for part in color)
    return red, green, blue


class Panel:
    """One chart on matplotlib axes; `texts` remembers each label's artist with what it says."""

    def __init__(self, chart: Chart, style: Style, rng: random.Random) -> None:
        self.chart, self.style, self.rng = chart, style, rng
        self.figure = Figure(
            figsize=(style.width / DPI, style.height / DPI), dpi=DPI, facecolor=shade(style.background)
        )
        self.canvas: Any = FigureCanvasAgg(self.figure)
        self.axes: Any = self.figure.add_subplot(facecolor=shade(style.background))
        self.ink = shade(style.ink)
        self.texts: list[tuple[Any, Role, int, str]] = []
        self.values = wording.value_labels(chart, style.grouped)
        self.growth = wording.growth_labels(chart, style.signed)
        self.handles: list[Any] = []

    def font(self, size: float, face: Face | None = None) -> FontProperties:
        return FontProperties(fname=str((face or self.style.face).path), size=points(size))

    def written(self, text: str, face: Face | None = None) -> str:
        require_glyphs(face or self.style.face, text)
        return text

    def draw(self) -> Drawing:
        if self.chart.kind == "line":
            self._values_as_line()
        else:
            self._values_as_bars()
        if self.chart.kind == "combined":
            self._growth_as_line()
        self._periods()
        self._frame()
        self._around()
        self.figure.tight_layout(pad=0.5)
        self.canvas.draw()
        image = Image.frombuffer("RGBA", self.canvas.get_width_height(), self.canvas.buffer_rgba()).convert("RGB")
        return Drawing(image, tuple(self._label(*text, image.height) for text in self.texts))

    def _note(self, axes: Any, x: float, y: float, text: str, size: float, up: float, role: Role, index: int) -> None:
        reading = self.chart.value_text(index) if role is Role.VALUE else self.chart.growth_text(index)
        artist = axes.annotate(
            self.written(text),
            (x, y),
            xytext=(0, points(up)),
            textcoords="offset points",
            ha="center",
            va="bottom" if up >= 0 else "top",
            color=self.ink,
            fontproperties=self.font(size),
            annotation_clip=False,
        )
        self.texts.append((artist, role, index, reading))

    def _fitted(self, size: float, texts: Sequence[str]) -> float:
        """At most as large as lets the labels of neighbouring periods stay apart."""
        room = 0.8 * self.style.width / len(self.chart.periods)
        width = max(text_width(self.style.face, 100, text) for text in texts) / 100
        return max(10 * self.style.scale, min(size, room / width))

    def _values_as_bars(self) -> None:
        style, chart = self.style, self.chart
        edge = self.ink if self.rng.random() < 0.2 else None
        places = range(len(chart.values))
        bars = self.axes.bar(
            places, chart.values, width=self.rng.uniform(0.35, 0.75), color=shade(style.bar), edgecolor=edge
        )
        self.handles.append((bars, chart.measure))
        size = self._fitted(style.value_size, self.values)
        rise = 2 * style.scale
        for index, value in enumerate(chart.values):
            lift = rise
            if style.stacked_growth:
                small = self._fitted(size, self.growth)
                self._note(self.axes, index, value, self.growth[index], small, rise, Role.GROWTH, index)
                lift += 1.25 * small
            self._note(self.axes, index, value, self.values[index], size, lift, Role.VALUE, index)
        room = 1.25 if chart.kind == "bar" else self.rng.uniform(2.0, 2.5)
        self.axes.set_ylim(0, max(chart.values) * (room + 0.2 * style.stacked_growth))

    def _values_as_line(self) -> None:
        style, values = self.style, self.chart.values
        handle = self._line(self.axes, values)
        self.handles.append((handle, self.chart.measure))
        size = self._fitted(style.value_size, self.values)
        for index, value in enumerate(values):
            self._note(self.axes, index, value, self.values[index], size, 4 * style.scale, Role.VALUE, index)
        low, high = min(values), max(values)
        floor = 0.0 if self.rng.random() < 0.5 else low - (high - low + 0.1) * 0.4
        self.axes.set_ylim(floor, high + (high - floor) * 0.22)
        self.axes.set_xlim(-0.5, len(values) - 0.5)

    def _line(self, axes: Any, figures: Sequence[float]) -> Any:
        style, rng = self.style, self.rng
        (handle,) = axes.plot(
            range(len(figures)),
            figures,
            marker=rng.choice(("o", "s", "D", "^", "")),
            markersize=points(rng.uniform(3.5, 6) * style.scale),
            linewidth=points(rng.uniform(1, 2.4) * style.scale),
            linestyle=rng.choice(("-", "-", "--")),
            color=shade(style.line),
        )
        return handle

    def _growth_as_line(self) -> None:
        style, figures = self.style, self.chart.growth or ()
        axes = self.axes.twinx()
        self.handles.append((self._line(axes, figures), wording.growth_name(self.chart, self.rng)))
        size = self._fitted(style.growth_size, self.growth)
        for index, figure in enumerate(figures):
            self._note(axes, index, figure, self.growth[index], size, 3 * style.scale, Role.GROWTH, index)
        low, high = min(figures), max(figures)
        span = max(high - low, 2.0)
        axes.set_ylim(low - span * self.rng.uniform(2.6, 3.3), high + 0.55 * span)
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)

    def _periods(self) -> None:
        style = self.style
        labels = wording.period_labels(self.chart, self.rng, style.two_line_periods)
        lines = [line for label in labels for line in label.split("\n")]
        size = style.period_size if style.period_angle else self._fitted(style.period_size, lines)
        self.axes.set_xticks(range(len(labels)), [self.written(label) for label in labels])
        for index, artist in enumerate(self.axes.get_xticklabels()):
            artist.set(fontproperties=self.font(size), color=self.ink, rotation=style.period_angle)
            if style.period_angle in (30.0, 45.0):
                artist.set(ha="right", rotation_mode="anchor")
            self.texts.append((artist, Role.PERIOD, index, str(self.chart.periods[index])))

    def _frame(self) -> None:
        style = self.style
        self.axes.tick_params(axis="both", color=self.ink, length=points(3 * style.scale))
        for side, spine in self.axes.spines.items():
            spine.set_color(self.ink)
            spine.set_visible(side == "bottom" or (style.has_axis and side == "left"))
        if style.has_grid:
            self.axes.set_axisbelow(True)
            self.axes.grid(axis="y", color=self.ink, alpha=0.2)
        if not style.has_axis:
            self.axes.tick_params(axis="y", left=False, labelleft=False)
        for artist in self.axes.get_yticklabels():
            artist.set(fontproperties=self.font(style.small_size), color=self.ink)

    def _around(self) -> None:
        style, chart, above = self.style, self.chart, 0.0
        if style.has_legend:
            low = self.rng.random() < 0.5 and not (style.period_angle or style.two_line_periods)
            handles, names = zip(*self.handles, strict=True)
            self.axes.legend(
                handles,
                [self.written(name) for name in names],
                loc="upper center" if low else "lower center",
                bbox_to_anchor=(0.5, -0.16 if low else 1.0),
                ncols=len(names),
                frameon=False,
                labelcolor=self.ink,
                prop=self.font(style.small_size),
            )
            above = 0 if low else 1.9 * style.small_size
        if chart.unit and not style.unit_in_title:
            note = self.written(wording.unit_note(chart, self.rng))
            self.axes.annotate(
                note,
                (0, 1),
                xycoords="axes fraction",
                xytext=(0, points(above + 2)),
                textcoords="offset points",
                va="bottom",
                color=self.ink,
                fontproperties=self.font(style.small_size),
            )
            above += 1.4 * style.small_size
        if style.has_title:
            text = wording.title(chart, self.rng, style.unit_in_title and bool(chart.unit))
            width = text_width(style.title_face, 100, text) / 100
            size = min(style.title_size, 0.9 * style.width / width)
            font = self.font(size, style.title_face)
            self.axes.set_title(
                self.written(text, style.title_face), fontproperties=font, color=self.ink, pad=points(above + 4)
            )

    def _label(self, artist: Any, role: Role, index: int, reading: str, height: int) -> Label:
        """Where the artist was drawn, its letters spread over its box as its font spaces them."""
        box = artist.get_window_extent(self.canvas.get_renderer())
        x, y = (box.x0 + box.x1) / 2, height - (box.y0 + box.y1) / 2
        lines = artist.get_text().split("\n")
        text = next(line for line in lines if role is not Role.PERIOD or reading in line)
        row = lines.index(text) - (len(lines) - 1) / 2
        size = artist.get_fontsize() * DPI / 72
        y += row * 1.2 * size
        widths = [text_width(self.style.face, 100, letter) * size / 100 for letter in text]
        angle = math.radians(artist.get_rotation())
        offset, characters = -sum(widths) / 2, []
        for letter, width in zip(text, widths, strict=True):
            along = offset + width / 2
            characters.append((x + along * math.cos(angle), y - along * math.sin(angle), letter))
            offset += width
        return Label(x, y, role, index, reading, tuple(c for c in characters if c[2] != " "))


class MatplotlibRenderer:
    name = "matplotlib"

    def render(
        self,
        chart: Chart,
        rng: random.Random,
        variety: float = 1.0,
        sizes: Sequence[tuple[int, int]] = SIZES,
    ) -> Drawing:
        return Panel(chart, draw_style(chart, rng, variety, sizes), rng).draw()
