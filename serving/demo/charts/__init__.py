from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Literal, Protocol

from PIL import Image

from serving.demo.charts.canvas import Drawing
from serving.demo.charts.chart import Chart, draw_chart
from serving.demo.charts.fonts import FontError
from serving.demo.charts.pillow import PillowRenderer

RendererName = Literal["pillow", "matplotlib", "vega"]

__all__ = ["Chart", "Drawing", "FontError", "RendererName", "draw_chart", "draw_with", "render", "write_samples"]


class Renderer(Protocol):
    name: str

    def render(self, chart: Chart, rng: random.Random, variety: float = 1.0) -> Drawing: ...


def renderer(name: RendererName) -> Renderer:
    if name == "pillow":
        return PillowRenderer()
    if name == "matplotlib":
        from serving.demo.charts.matplotlib import MatplotlibRenderer

        return MatplotlibRenderer()
    from serving.demo.charts.vega import VegaRenderer

    return VegaRenderer()


def draw_with(name: RendererName, chart: Chart, rng: random.Random, variety: float = 1.0) -> Drawing:
    """The image of `chart` with the places of its labels (none from a renderer that does not know them)."""
    return renderer(name).render(chart, rng, variety)


def render(chart: Chart, rng: random.Random, renderer: RendererName = "pillow") -> Image.Image:
    """An RGB image of `chart`, its look drawn from `rng`. Raises FontError where a glyph is missing."""
    return draw_with(renderer, chart, rng).image


def write_samples(folder: Path, n: int, seed: int) -> list[Path]:
    """Writes `n` charts as PNG files and their answers as `expected.jsonl` (keys: file, expected)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths, lines = random.Random(seed), [], []
    for number in range(1, n + 1):
        chart = draw_chart(rng)
        path = folder / f"chart-{number:03d}.png"
        render(chart, rng).save(path)
        paths.append(path)
        lines.append(json.dumps({"file": path.name, "expected": chart.expected()}, ensure_ascii=False))
    (folder / "expected.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths
