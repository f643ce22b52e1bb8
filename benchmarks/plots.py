"""Plots as inline SVG, drawn in the page's own colours: no script, no network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 40
_MOST_TICKS = 10


@dataclass(frozen=True)
class Series:
    """Points of one colour, joined (`line`, `step`) or not (`dots`)."""

    name: str
    points: Sequence[tuple[float, float]]
    form: Literal["line", "step", "dots"] = "line"


@dataclass(frozen=True)
class Axis:
    """`of` turns a value into pixels; `ticks` are what is written."""

    of: Callable[[float], float]
    ticks: Sequence[float]


def plot(title: str, x: str, y: str, series: Sequence[Series], log_x: bool = False, zero_y: bool = True) -> str:
    """One figure with its legend; empty without any point. Axes start at zero unless logarithmic or told otherwise."""
    series = [each for each in series if each.points]
    if not series:
        return ""
    xs = [point[0] for each in series for point in each.points]
    ys = [point[1] for each in series for point in each.points]
    across = _axis(min(xs), max(xs), _LEFT, WIDTH - _RIGHT, log_x)
    up = _axis(0.0 if zero_y else min(ys), max(ys), HEIGHT - _BOTTOM, _TOP, False)
    body = "".join(_drawn(each, at, across, up) for at, each in enumerate(series))
    legend = "".join(f'<span class="s{at}">{escape(each.name)}</span>' for at, each in enumerate(series))
    return (
        f'<figure><figcaption>{escape(title)}<span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{_grid(across, up)}{body}{_labels(x, y)}</svg></figure>"
    )


def cumulative(values: Sequence[float], most: int = 400) -> list[tuple[float, float]]:
    """The share of values up to each, thinned evenly but for its ends."""
    ordered = sorted(values)
    step = max(1, len(ordered) // most)
    kept = sorted({*range(0, len(ordered), step), len(ordered) - 1}) if ordered else []
    return [(ordered[at], (at + 1) / len(ordered)) for at in kept]


def number(value: float) -> str:
    """Three digits, as one reads them."""
    if value == 0 or 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _axis(low: float, high: float, start: float, end: float, logarithmic: bool) -> Axis:
    if logarithmic:
        low = max(low, high / 1e6, 1e-9)
        first, last = math.log10(low), math.log10(max(high, low * 1.01))
        ticks = [m * 10**e for e in range(math.floor(first), math.ceil(last) + 1) for m in (1, 2, 5)]
        shown = [tick for tick in ticks if low <= tick <= high]
        if len(shown) > _MOST_TICKS:
            shown = [tick for tick in shown if round(math.log10(tick), 6).is_integer()]
        shown = shown if len(shown) > 1 else [low, high]
        return Axis(lambda v: start + (math.log10(max(v, low)) - first) / (last - first) * (end - start), shown)
    high = high if high > low else low + 1
    step = _step((high - low) / 4)
    count = math.floor((high - low) / step + 1e-9)
    base = math.ceil(low / step - 1e-9) * step
    ticks = [base + step * at for at in range(count + 1) if base + step * at <= high * (1 + 1e-9)]
    return Axis(lambda v: start + (v - low) / (high - low) * (end - start), ticks)


def _step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, not below what is asked for."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def _grid(across: Axis, up: Axis) -> str:
    floor = HEIGHT - _BOTTOM
    parts = [
        f'<text class="tick" x="{across.of(tick):.1f}" y="{floor + 16}">{number(tick)}</text>' for tick in across.ticks
    ]
    for tick in up.ticks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{up.of(tick):.1f}" y2="{up.of(tick):.1f}"/>'
        )
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{up.of(tick) + 4:.1f}">{number(tick)}</text>')
    return "".join(parts)


def _labels(x: str, y: str) -> str:
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    return (
        f'<text class="label" x="{(_LEFT + WIDTH) / 2}" y="{HEIGHT - 6}">{escape(x)}</text>'
        f'<text class="label" transform="rotate(-90 12 {middle})" x="12" y="{middle}">{escape(y)}</text>'
    )


def _drawn(series: Series, at: int, across: Axis, up: Axis) -> str:
    spots = [(across.of(x), up.of(y)) for x, y in series.points]
    if series.form == "dots":
        return (
            f'<g class="s{at} dots">' + "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in spots) + "</g>"
        )
    path = f"M{spots[0][0]:.1f} {spots[0][1]:.1f}"
    for x, y in spots[1:]:
        path += f"H{x:.1f}V{y:.1f}" if series.form == "step" else f"L{x:.1f} {y:.1f}"
    return f'<path class="s{at}" d="{path}"/>'
