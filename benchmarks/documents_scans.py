"""Figures and captions found on scanned pages, from a flat clean copy to a tilted noisy one.

python -m benchmarks.documents_scans --count 6 --seed 5501 [--out benchmarks/results/documents_scans.json]

Every page of generated reports is copied by a scanner whose resolution, tilt, noise and compression are drawn anew for
each report; most of the pages have no figure. A figure is found when a region covers at least half of it and it at
least half of the region (intersection over union), on its page.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.reports_accuracy import FOUND, squeezed
from client.documents import Figure, PageRead, figures_of
from client.documents.regions import overlap
from client.samples import write_reports
from client.samples.scans import Scanner, scan_document

PAGE = (595.0, 842.0)


def drawn(rng: random.Random, turned: Iterable[int]) -> Scanner:
    return Scanner(
        dpi=rng.choice((100, 150, 200)), tilt=round(rng.uniform(-2.0, 2.0), 2), noise=round(rng.uniform(2.0, 24.0), 1),
        quality=rng.randint(40, 85), turned=rng.choice(tuple(turned)),
    )  # fmt: skip


async def read(path: Path, folder: Path) -> tuple[list[Figure], int]:
    figures, pages = list[Figure](), 0
    async for event in figures_of(path, folder, patience=900):
        if isinstance(event, PageRead):
            pages += 1
            figures += event.figures
    return figures, pages


def compare(known: list[dict[str, Any]], found: list[Figure], scanner: Scanner) -> Counter[str]:
    counts: Counter[str] = Counter()
    left = list(found)
    for figure in known:
        kind, box = figure["kind"], scanner.moved(tuple(figure["box"]), PAGE)
        counts[f"{kind} all"] += 1
        here = [each for each in left if each.page == figure["page"]]
        match = max(here, key=lambda each: overlap(each.box, box), default=None)
        if match is None or overlap(match.box, box) < FOUND:
            continue
        left.remove(match)
        counts[f"{kind} found"] += 1
        counts[f"{kind} kind right"] += (match.kind == "table") == (kind == "table")
        counts[f"{kind} caption right"] += squeezed(match.caption) == squeezed(figure["caption"])
    counts["false"] = len(left)
    return counts


async def measured(folder: Path, count: int, seed: int, turned: Iterable[int]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    reports, began = [], time.monotonic()
    for number, path in enumerate(list(write_reports(folder, count, seed)), 1):
        scanner, copy = drawn(random.Random(f"{seed}:{number}"), turned), path.with_name(f"scan-{number:03d}.pdf")
        await asyncio.to_thread(scan_document, path, copy, scanner)
        found, pages = await read(copy, folder / copy.stem)
        known = json.loads(path.with_suffix(".json").read_text("utf-8"))["figures"]
        own = compare(known, found, scanner) + Counter(pages=pages)
        counts += own
        reports.append({"scanner": asdict(scanner), **own})
        print(json.dumps(reports[-1]), flush=True)
    total = dict(sorted(counts.items()))
    return {**total, "seconds": round(time.monotonic() - began, 1), "reports": reports}


def main() -> None:
    parser = argparse.ArgumentParser(description="Figures and captions found on scanned pages.")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--seed", type=int, default=5501, help="of the reports and of the scanner")
    parser.add_argument("--turned", type=int, nargs="+", default=[0], help="turns to draw from, degrees clockwise")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/documents_scans.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = asyncio.run(measured(Path(name), options.count, options.seed, options.turned))
    arguments = f"--count {options.count} --seed {options.seed} --turned {' '.join(map(str, options.turned))}"
    known = {"command": f"python -m benchmarks.documents_scans {arguments}", "cpus": os.cpu_count()}
    text = json.dumps(known | result, indent=2)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
