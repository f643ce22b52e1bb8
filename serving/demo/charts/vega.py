"""The renderer that training never sees: Vega-Lite, drawn by its own engine (Rust, resvg)."""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Sequence
from typing import Any

import vl_convert
from PIL import Image, ImageFont

from serving.demo.charts import wording
from serving.demo.charts.canvas import Color, Drawing
from serving.demo.charts.chart import Chart
from serving.demo.charts.fonts import Face, require_glyphs, text_width
from serving.demo.charts.style import SIZES, Style, draw_style


@functools.cache
def family(face: Face) -> str:
    """The name under which the engine finds `face`, once its folder is registered."""
    vl_convert.register_font_directory(str(face.path.parent))
    name = ImageFont.truetype(face.path, 12, index=face.index).getname()[0]
    return str(name)


def css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def rows(chart: Chart, style: Style, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Vega's data: one row a period."""
    values, growth = wording.value_labels(chart, style.grouped), wording.growth_labels(chart, style.signed)
    return [
        {
            "period": labels[i],
            "value": chart.values[i],
            "value_label": values[i],
            "growth": chart.growth[i] if chart.growth else None,
            "growth_label": growth[i] if growth else "",
        }
        for i in range(len(labels))
    ]


def note(field: str, label: str, size: float, color: str, up: float, scale: dict[str, Any]) -> dict[str, Any]:
    return {
        "mark": {"type": "text", "dy": -up, "fontSize": size, "color": color, "baseline": "bottom"},
        "encoding": {
            "y": {"field": field, "type": "quantitative", "scale": scale, "axis": None},
            "text": {"field": label, "type": "nominal"},
        },
    }


def value_layers(chart: Chart, style: Style, rng: random.Random, axis: dict[str, Any] | None) -> list[dict[str, Any]]:
    ink, unit = css(style.ink), style.scale
    room = rng.uniform(2.0, 2.4) if chart.kind == "combined" else 1.3
    scale: dict[str, Any] = {"domain": [0, max(chart.values) * room], "nice": False}
    y = {"field": "value", "type": "quantitative", "scale": scale, "axis": axis, "title": None}
    size = min(style.value_size, 13.5 * unit)
    if chart.kind == "line":
        mark: dict[str, Any] = {"type": "line", "point": True, "color": css(style.line), "strokeWidth": 1.5 * unit}
    else:
        mark = {"type": "bar", "color": css(style.bar), "width": {"band": rng.uniform(0.4, 0.75)}}
    lift = 3 * unit
    layers: list[dict[str, Any]] = [{"mark": mark, "encoding": {"y": y}}]
    if style.stacked_growth:
        layers.append(note("value", "growth_label", size, ink, lift, scale))
        lift += 1.2 * size
    layers.append(note("value", "value_label", size, ink, lift, scale))
    return layers


def growth_layers(chart: Chart, style: Style) -> list[dict[str, Any]]:
    figures = chart.growth or ()
    low, high = min(figures), max(figures)
    span = max(high - low, 2.0)
    scale: dict[str, Any] = {"domain": [low - 2.8 * span, high + 0.6 * span], "nice": False}
    y = {"field": "growth", "type": "quantitative", "scale": scale, "axis": None}
    mark = {
        "type": "line",
        "point": {"color": css(style.line)},
        "color": css(style.line),
        "strokeWidth": 1.5 * style.scale,
    }
    size = min(style.growth_size, 12.5 * style.scale)
    return [
        {"mark": mark, "encoding": {"y": y}},
        note("growth", "growth_label", size, css(style.ink), 3 * style.scale, scale),
    ]


def specification(chart: Chart, style: Style, rng: random.Random) -> dict[str, Any]:
    labels = [label.replace("\n", " ") for label in wording.period_labels(chart, rng, two_line=False)]
    ink, font = css(style.ink), family(style.face)
    axis = {"grid": style.has_grid, "labels": style.has_axis, "domain": style.has_axis, "ticks": style.has_axis}
    values = {"layer": value_layers(chart, style, rng, axis if style.has_axis or style.has_grid else None)}
    layers: list[dict[str, Any]] = [values]
    if chart.kind == "combined":
        layers.append({"layer": growth_layers(chart, style)})
    title = wording.title(chart, rng, with_unit=bool(chart.unit))
    require_glyphs(style.face, title + "".join(labels))
    room = 0.92 * style.width / (text_width(style.face, 100, title) / 100)
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": style.width,
        "height": style.height,
        "autosize": {"type": "fit", "contains": "padding"},
        "padding": 6 * style.scale,
        "background": css(style.background),
        "data": {"values": rows(chart, style, labels)},
        "title": {"text": title, "font": font, "fontSize": min(style.title_size, room), "color": ink},
        "encoding": {
            "x": {
                "field": "period",
                "type": "ordinal",
                "sort": None,
                "title": None,
                "axis": {"labelAngle": -style.period_angle, "labelFontSize": min(style.period_size, 12 * style.scale)},
            }
        },
        "layer": layers,
        "resolve": {"scale": {"y": "independent"}},
        "config": {
            "font": font,
            "view": {"stroke": None},
            "text": {"font": font},
            "axis": {
                "labelColor": ink,
                "labelFont": font,
                "labelFontSize": style.small_size,
                "tickColor": ink,
                "domainColor": ink,
                "gridColor": ink,
                "gridOpacity": 0.2,
                "labelOverlap": False,
            },
        },
    }


class VegaRenderer:
    name = "vega"

    def render(
        self,
        chart: Chart,
        rng: random.Random,
        variety: float = 1.0,
        sizes: Sequence[tuple[int, int]] = SIZES,
    ) -> Drawing:
        """Its labels' places are unknown: the drawing has none."""
        style = draw_style(chart, rng, variety, sizes)
        png = vl_convert.vegalite_to_png(specification(chart, style, rng), scale=1)
        image = Image.open(io.BytesIO(png)).convert("RGB")
        return Drawing(image, ())
