from __future__ import annotations

import colorsys
import random
from collections.abc import Sequence
from dataclasses import dataclass

from serving.demo.charts.canvas import Color
from serving.demo.charts.chart import Chart
from serving.demo.charts.fonts import Face, installed

SIZES = (
    *[(288, 224), (320, 224), (352, 192), (320, 192), (256, 256), (300, 225), (340, 210)] * 2,
    *[(640, 480), (640, 448), (600, 400), (720, 405), (560, 420), (512, 512), (480, 360)],
    *[(800, 600), (960, 540), (1000, 700), (1280, 960), (1280, 720)],
)
# Area in pixels at which the lengths of a style are stated: what the model sees of any chart.
SEEN_AREA = 288 * 224


def color(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def blend(one: Color, other: Color, share: float) -> Color:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def luminance(c: Color) -> float:
    return (0.30 * c[0] + 0.59 * c[1] + 0.11 * c[2]) / 255


@dataclass(frozen=True)
class Style:
    """How one chart looks. Sizes of letters in pixels of an image of `width` x `height`."""

    width: int
    height: int
    scale: float
    dark: bool
    background: Color
    ink: Color
    bar: Color
    line: Color
    face: Face
    title_face: Face
    value_size: float
    period_size: float
    growth_size: float
    title_size: float
    small_size: float
    has_title: bool
    has_legend: bool
    has_axis: bool
    has_grid: bool
    unit_in_title: bool
    two_line_periods: bool
    period_angle: float
    grouped: bool
    signed: bool
    stacked_growth: bool


def visible(ink: Color, background: Color) -> Color:
    """`ink`, moved away from `background` until it stands out."""
    target = (0, 0, 0) if luminance(background) > 0.5 else (255, 255, 255)
    while abs(luminance(ink) - luminance(background)) < 0.3:
        ink = blend(ink, target, 0.25)
    return ink


def palette(rng: random.Random) -> tuple[bool, Color, Color]:
    """(dark, background, ink)"""
    hue = rng.random()
    if rng.random() < 0.12:
        return True, color(hue, rng.uniform(0, 0.5), rng.uniform(0.06, 0.2)), color(hue, 0.1, rng.uniform(0.85, 1))
    background = (255, 255, 255) if rng.random() < 0.65 else color(hue, rng.uniform(0, 0.1), rng.uniform(0.92, 1))
    return False, background, color(rng.random(), rng.choice((0, 0, 0.4)), rng.uniform(0, 0.35))


def draw_style(
    chart: Chart, rng: random.Random, variety: float = 1.0, sizes: Sequence[tuple[int, int]] = SIZES
) -> Style:
    """`variety` scales how often the rarer features occur, as for `draw_chart`; `sizes` are those to choose from."""
    width, height = rng.choice(sizes)
    scale = (width * height / SEEN_AREA) ** 0.5
    dark, background, ink = palette(rng)
    face, title_face = rng.choice(installed(chart.language)), rng.choice(installed(chart.language))
    largest = {2: 18.0, 3: 17.0, 4: 16.0, 5: 14.5, 6: 13.5}[len(chart.periods)]
    value_size = rng.uniform(13.0, largest + 0.5)

    def rarely(probability: float) -> bool:
        return rng.random() < probability * variety

    has_title = rng.random() < 0.8
    return Style(
        width=width,
        height=height,
        scale=scale,
        dark=dark,
        background=background,
        ink=ink,
        bar=color(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(0.55, 0.95)),
        line=visible(color(rng.random(), rng.uniform(0.6, 1), rng.uniform(0.45, 1)), background),
        face=face,
        title_face=title_face,
        value_size=value_size * scale,
        period_size=rng.uniform(11.5, value_size) * scale,
        growth_size=rng.uniform(12.5, min(value_size, 15.5)) * scale,
        title_size=rng.uniform(11, 16) * scale,
        small_size=rng.uniform(10, 12.5) * scale,
        has_title=has_title,
        has_legend=rng.random() < (0.7 if chart.kind == "combined" else 0.3),
        has_axis=rng.random() < 0.4,
        has_grid=rng.random() < 0.45,
        unit_in_title=has_title and rng.random() < 0.5,
        two_line_periods=rarely(0.06),
        period_angle=rng.choice((30.0, 45.0, 90.0)) if rarely(0.07) else 0.0,
        grouped=chart.decimals == 0 and rng.random() < 0.5,
        signed=rarely(0.07),
        stacked_growth=chart.kind == "bar" and chart.growth is not None,
    )
