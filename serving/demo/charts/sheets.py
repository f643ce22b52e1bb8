from __future__ import annotations

import random

from serving.demo.charts.canvas import Canvas, Color, Drawing, Role
from serving.demo.charts.fonts import Face, installed, text_width
from serving.demo.charts.style import SEEN_AREA, color, luminance, palette, visible


def figure(rng: random.Random) -> tuple[str, str]:
    """A number as charts print it, and its reading."""
    form = rng.random()
    if form < 0.15:
        year = str(rng.randint(2005, 2030))
        return rng.choice(("{}", "{}年", "{}A", "FY{}")).format(year), year
    if form < 0.5:
        share = rng.uniform(-60, 99) if rng.random() < 0.6 else rng.uniform(-10, 20)
        decimals = 0 if rng.random() < 0.25 else 1
        reading = f"{round(share, decimals) + 0.0:.{decimals}f}"
        sign = "+" if share > 0 and rng.random() < 0.1 else ""
        return f"{sign}{reading}%", reading
    if form < 0.62:
        number = rng.choice((rng.randint(1000, 49999), rng.randint(10, 999)))
        return f"{number:,}" if rng.random() < 0.6 else str(number), str(number)
    largest = rng.choice((10, 100, 1000))
    reading = f"{rng.uniform(largest / 10, largest):.{rng.choice((1, 1, 2))}f}"
    return reading, reading


def draw_sheet(rng: random.Random, width: int, height: int) -> Drawing:
    """An image full of figures: several times as many to read as in a chart, for the eyes alone."""
    _, background, ink = palette(rng)
    scale = (width * height / SEEN_AREA) ** 0.5
    canvas = Canvas(width, height, background)
    y = rng.uniform(2, 10) * scale
    while y < height - 14 * scale:
        face, size = rng.choice(installed("zh" if rng.random() < 0.4 else "en")), rng.uniform(9.5, 15) * scale
        draw_row(canvas, rng, y + size * 0.6, face, size, ink, background)
        y += max(size * 1.2, 16 * scale) + rng.uniform(0, 5) * scale
    return canvas.finish()


def draw_row(
    canvas: Canvas, rng: random.Random, y: float, face: Face, size: float, ink: Color, background: Color
) -> None:
    """Figures from left to right in the middle of `y`, some on a block of colour or across a line."""
    scale = (canvas.width * canvas.height / SEEN_AREA) ** 0.5
    x = rng.uniform(2, 20) * scale
    while True:
        text, reading = figure(rng)
        if not face.chinese:
            text = text.replace("年", "")
        width = text_width(face, round(size), text)
        if x + width > canvas.width - 2:
            return
        shade = ink
        if rng.random() < 0.2:
            block = color(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.95))
            canvas.draw.rectangle((x - 4, y - size * 0.7, x + width + 4, y + size * 0.7), fill=block)
            shade = (255, 255, 255) if luminance(block) < 0.6 else (20, 20, 20)
        elif rng.random() < 0.15:
            line = visible(color(rng.random(), 0.8, 0.8), background)
            rise = rng.uniform(-size, size)
            canvas.draw.line((x - 6, y - rise, x + width + 6, y + rise), fill=line, width=max(1, round(1.3 * scale)))
        elif rng.random() < 0.15:
            shade = visible(color(rng.random(), 0.8, 0.7), background)
        canvas.text(x, y, text, face, size, shade, anchor="l", role=Role.OTHER, reading=reading)
        x += width + rng.uniform(6, 24) * scale
