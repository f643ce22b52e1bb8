from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["bar", "line", "combined"]
Language = Literal["zh", "en"]
Colour = tuple[float, float, float]

SEEN_AREA = 288 * 224
"""Pixels that the embedded model sees of a chart, whatever its size. Sizes of letters below are stated for it."""
VALUE_SIZE = (13.5, 16.5)
_LARGEST = {2: 17.0, 3: 16.5, 4: 15.5, 5: 14.5, 6: 13.5}
_GROWTH = {"zh": ("同比增速", "同比增长", "增长率"), "en": ("Growth", "YoY growth", "Growth rate")}


@dataclass(frozen=True)
class Chart:
    """What a chart of a report says.

    Attributes:
        measure: what is shown, such as `营业收入`.
        unit: as it is printed: `亿元`, `million`, ...
        values: positive, one decimal.
        growth: percent against the year before, as printed: one figure a period; None where none is printed.
    """

    kind: Kind
    language: Language
    company: str
    measure: str
    unit: str
    periods: tuple[int, ...]
    values: tuple[float, ...]
    growth: tuple[float, ...] | None = None

    def expected(self) -> dict[str, Any]:
        """What a reader of the chart must answer."""
        return {
            "type": self.kind,
            "unit": self.unit,
            "years": list(self.periods),
            "values": list(self.values),
            "growth": list(self.growth or ()),
        }


@dataclass(frozen=True)
class Look:
    """Sizes in points of a chart of `width` x `height` points; `scale` is 1 for the size that the model sees."""

    width: float
    height: float
    font: Path
    bar: Colour
    line: Colour
    ink: Colour
    value_size: float
    period_size: float
    small_size: float
    has_axis: bool
    has_grid: bool
    has_title: bool
    has_legend: bool
    unit_in_title: bool

    @property
    def scale(self) -> float:
        return float((self.width * self.height / SEEN_AREA) ** 0.5)


PALETTES: tuple[tuple[Colour, Colour], ...] = (
    ((0.16, 0.38, 0.64), (0.90, 0.49, 0.13)),
    ((0.24, 0.53, 0.52), (0.78, 0.22, 0.24)),
    ((0.55, 0.67, 0.84), (0.13, 0.24, 0.45)),
    ((0.75, 0.31, 0.30), (0.20, 0.35, 0.60)),
    ((0.42, 0.62, 0.35), (0.85, 0.42, 0.10)),
    ((0.45, 0.40, 0.65), (0.80, 0.55, 0.10)),
)


def draw_look(chart: Chart, rng: random.Random, size: tuple[float, float], font: Path) -> Look:
    """How one chart is drawn; `size` in points."""
    scale = (size[0] * size[1] / SEEN_AREA) ** 0.5
    bar, line = rng.choice(PALETTES)
    value = rng.uniform(VALUE_SIZE[0] - 0.5, _LARGEST[len(chart.periods)])
    titled = rng.random() < 0.8
    return Look(
        *size,
        font=font,
        bar=bar,
        line=line,
        ink=rng.choice(((0.1, 0.1, 0.1), (0.15, 0.18, 0.25), (0.25, 0.25, 0.25))),
        value_size=value * scale,
        period_size=rng.uniform(12.0, 13.5) * scale,
        small_size=rng.uniform(10.0, 11.5) * scale,
        has_axis=rng.random() < 0.35,
        has_grid=rng.random() < 0.35,
        has_title=titled,
        has_legend=chart.kind == "combined" and rng.random() < 0.7,
        unit_in_title=titled and rng.random() < 0.5,
    )


def chart_pdf(chart: Chart, look: Look, rng: random.Random) -> bytes:
    """The chart as a PDF of one page of its size, all lines and letters as vectors."""
    import matplotlib as mpl

    with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):
        return _Plot(chart, look, rng).pdf()


class _Plot:
    def __init__(self, chart: Chart, look: Look, rng: random.Random) -> None:
        from matplotlib.figure import Figure

        self.chart, self.look, self.rng = chart, look, rng
        self.figure = Figure(figsize=(look.width / 72, look.height / 72), dpi=72)
        self.axes: Any = self.figure.add_subplot()
        self.named: list[tuple[Any, str]] = []

    def pdf(self) -> bytes:
        if self.chart.kind == "line":
            self._trend()
        else:
            self._bars()
        if self.chart.kind == "combined":
            self._growth()
        self._axis()
        self._head()
        self.figure.tight_layout(pad=0.6)
        stream = io.BytesIO()
        self.figure.savefig(stream, format="pdf", metadata={"CreationDate": None})
        return stream.getvalue()

    def _font(self, size: float) -> Any:
        from matplotlib.font_manager import FontProperties

        return FontProperties(fname=str(self.look.font), size=size)

    def _fitted(self, size: float, texts: Sequence[str]) -> float:
        """At most as large as lets the labels of neighbours stay apart; a digit is about 0.6 of its height wide."""
        room = 0.8 * self.look.width / len(self.chart.periods)
        return min(size, room / (0.6 * max(len(text) for text in texts)))

    def _note(self, axes: Any, x: int, y: float, text: str, size: float, rise: float) -> None:
        axes.annotate(
            text, (x, y), xytext=(0, rise), textcoords="offset points", ha="center", va="bottom",
            color=self.look.ink, fontproperties=self._font(size), annotation_clip=False,
        )  # fmt: skip

    def _values(self, rise: float) -> None:
        texts = [f"{value:.1f}" for value in self.chart.values]
        size = self._fitted(self.look.value_size, texts)
        for place, (value, text) in enumerate(zip(self.chart.values, texts, strict=True)):
            self._note(self.axes, place, value, text, size, rise)

    def _bars(self) -> None:
        chart, look = self.chart, self.look
        places = range(len(chart.values))
        bars = self.axes.bar(places, chart.values, width=self.rng.uniform(0.4, 0.65), color=look.bar)
        self.named.append((bars, chart.measure))
        self._values(2.5 * look.scale)
        room = self.rng.uniform(2.05, 2.4) if chart.kind == "combined" else 1.25
        self.axes.set_ylim(0, max(chart.values) * room)

    def _line(self, axes: Any, figures: Sequence[float]) -> Any:
        scale = self.look.scale
        (line,) = axes.plot(
            range(len(figures)), figures, color=self.look.line, linewidth=1.6 * scale,
            marker=self.rng.choice(("o", "s", "D")), markersize=4.5 * scale,
        )  # fmt: skip
        return line

    def _trend(self) -> None:
        values = self.chart.values
        self.named.append((self._line(self.axes, values), self.chart.measure))
        self._values(4 * self.look.scale)
        low, high = min(values), max(values)
        floor = 0.0 if self.rng.random() < 0.5 else low - 0.4 * (high - low + 0.1)
        self.axes.set_ylim(floor, high + 0.22 * (high - floor))
        self.axes.set_xlim(-0.5, len(values) - 0.5)

    def _growth(self) -> None:
        """The line of growth on a second axis, kept above the bars."""
        chart, look, figures = self.chart, self.look, self.chart.growth or ()
        axes = self.axes.twinx()
        self.named.append((self._line(axes, figures), self.rng.choice(_GROWTH[chart.language])))
        texts = [f"{figure:.1f}%" for figure in figures]
        size = self._fitted(min(look.value_size, 14.5 * look.scale), texts)
        for place, (figure, text) in enumerate(zip(figures, texts, strict=True)):
            self._note(axes, place, figure, text, size, 3 * look.scale)
        span = max(max(figures) - min(figures), 2.0)
        axes.set_ylim(min(figures) - span * self.rng.uniform(2.7, 3.2), max(figures) + 0.55 * span)
        axes.axis("off")

    def _axis(self) -> None:
        look, chart = self.look, self.chart
        form = self.rng.choice(("{}", "{}年") if chart.language == "zh" else ("{}", "FY{}"))
        labels = [form.format(year) for year in chart.periods]
        size = self._fitted(look.period_size, labels)
        self.axes.set_xticks(range(len(labels)), labels, fontproperties=self._font(size), color=look.ink)
        self.axes.tick_params(axis="both", color=look.ink, length=3 * look.scale)
        for side, spine in self.axes.spines.items():
            spine.set_visible(side == "bottom" or (look.has_axis and side == "left"))
        if look.has_grid:
            self.axes.set_axisbelow(True)
            self.axes.grid(axis="y", color=look.ink, alpha=0.2, linewidth=0.5)
        if look.has_axis:
            for tick in self.axes.get_yticklabels():
                tick.set(fontproperties=self._font(look.small_size), color=look.ink)
        else:
            self.axes.tick_params(axis="y", left=False, labelleft=False)

    def _head(self) -> None:
        """Title, unit and legend, from the top down."""
        look, above = self.look, 0.0
        if look.has_legend:
            handles, names = zip(*self.named, strict=True)
            self.axes.legend(
                handles, names, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(names), frameon=False,
                labelcolor=look.ink, prop=self._font(look.small_size),
            )  # fmt: skip
            above = 1.9 * look.small_size
        if not look.unit_in_title:
            self.axes.annotate(
                self._unit(), (0, 1), xycoords="axes fraction", xytext=(0, above + 2), textcoords="offset points",
                va="bottom", color=look.ink, fontproperties=self._font(look.small_size),
            )  # fmt: skip
            above += 1.4 * look.small_size
        if look.has_title:
            title = self._title()
            size = min(13.0 * look.scale, 0.9 * look.width / _width(title))
            self.axes.set_title(title, fontproperties=self._font(size), color=look.ink, pad=above + 4)

    def _unit(self) -> str:
        forms = ("单位：{}", "（单位：{}）") if self.chart.language == "zh" else ("in {}", "Unit: {}")
        return self.rng.choice(forms).format(self.chart.unit)

    def _title(self) -> str:
        chart = self.chart
        joint = "" if chart.language == "zh" else " "
        title = joint.join(filter(None, (chart.company, chart.measure)))
        if not self.look.unit_in_title:
            return title
        return f"{title}（{chart.unit}）" if chart.language == "zh" else f"{title} ({chart.unit})"


def _width(text: str) -> float:
    """In heights of its letters: a Chinese one is as wide as high, a Latin one about 0.6 of it."""
    return sum(1.0 if ord(letter) > 0x2E7F else 0.6 for letter in text)
