from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serving.demo.batches import Picture, picture
from serving.demo.charts.chart import Chart, draw_chart
from serving.demo.charts.matplotlib import MatplotlibRenderer
from serving.demo.charts.pillow import PillowRenderer
from serving.demo.charts.sheets import draw_sheet
from serving.demo.charts.style import SIZES
from serving.demo.heads import Targets
from serving.demo.pixels import fitted_size

NOTHING = Chart("bar", "en", "", "", "", (), ())


@functools.cache
def native_sizes(seen: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """The image sizes that the model sees as `seen`."""
    return tuple(size for size in SIZES if fitted_size(*size) == seen)


def save(picture: Picture, path: Path) -> None:
    chart = json.dumps(dataclasses.asdict(picture.chart))
    targets = picture.targets
    np.savez(path, chart=chart, pixels=picture.pixels, characters=targets.characters, labels=targets.labels)


def load(path: Path) -> Picture:
    with np.load(path) as held:
        fields = json.loads(str(held["chart"]))
        for name in ("periods", "values", "growth"):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        return Picture(Chart(**fields), held["pixels"], Targets(held["characters"], held["labels"]))


def fill_pool(folder: Path, count: int, seed: int) -> None:
    """Draws `count` charts with matplotlib, some 20 times slower than Pillow, once for many epochs."""
    rng, renderer = random.Random(seed), MatplotlibRenderer()
    for number in range(count):
        chart = draw_chart(rng)
        drawn = picture(chart, renderer.render(chart, rng))
        height, width = drawn.pixels.shape[:2]
        place = folder / f"{width}x{height}"
        place.mkdir(parents=True, exist_ok=True)
        save(drawn, place / f"{number:06d}.npz")


class Pictures:
    """Training pictures: most drawn fresh by Pillow, a share from the pool that matplotlib filled."""

    def __init__(self, pool: Path | None, share: float) -> None:
        self.pillow, self.share = PillowRenderer(), share
        self.pool = {place.name: sorted(place.glob("*.npz")) for place in pool.iterdir()} if pool else {}

    @staticmethod
    def size(rng: random.Random) -> tuple[int, int]:
        """(width, height) of a batch."""
        return fitted_size(*rng.choice(SIZES))

    def sheet(self, rng: random.Random, size: tuple[int, int]) -> Picture:
        """A sheet of figures, which no dialogue can be about: its chart says nothing."""
        return picture(NOTHING, draw_sheet(rng, *rng.choice(native_sizes(size))))

    def draw(self, rng: random.Random, size: tuple[int, int], variety: float) -> Picture:
        pooled = self.pool.get(f"{size[0]}x{size[1]}")
        if pooled and rng.random() < self.share:
            return load(rng.choice(pooled))
        chart = draw_chart(rng, variety)
        return picture(chart, self.pillow.render(chart, rng, variety, native_sizes(size)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m serving.demo.pictures", description="Fills the pool of matplotlib charts for training."
    )
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    fill_pool(given.pool, given.count, given.seed)


if __name__ == "__main__":
    main()
