"""Memory of reading a long PDF: the resident set of the process that opens it, page by page.

python -m benchmarks.documents_memory --pages 5000 [--out benchmarks/results/documents_memory.json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

from client.documents import PageRead, figures_of

EVERY = 250


def long_document(path: Path, pages: int) -> None:
    """Text on every page, a bar chart and a table of its own on every fifth."""
    canvas = Canvas(str(path), pagesize=(595, 842), pageCompression=1, invariant=1)
    for number in range(pages):
        for line in range(30):
            canvas.drawString(60, 780 - 14 * line, f"{number}.{line} The group kept to its core business this year.")
        if number % 5 == 0:
            canvas.line(100, 100, 400, 100)
            for bar in range(5):
                canvas.rect(120 + 55 * bar, 100, 30, 20 + (number * 7 + bar * 31) % 120, fill=1)
        canvas.showPage()
    canvas.save()


async def read(path: Path, folder: Path) -> dict[str, Any]:
    curve, figures, pages, began = [], 0, 0, time.monotonic()
    async for event in figures_of(path, folder):
        if isinstance(event, PageRead):
            figures, pages = figures + len(event.figures), pages + 1
            if event.page % EVERY == 1:
                curve.append({"page": event.page, "rss_mb": worker_memory()})
    seconds = time.monotonic() - began
    return {"pages": pages, "figures": figures, "ms_per_page": round(1000 * seconds / pages, 2), "curve": curve}


def worker_memory() -> float:
    children = psutil.Process().children(recursive=True)
    return round(
        sum(child.memory_info().rss for child in children if "client.documents.worker" in child.cmdline()) / 2**20, 1
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of reading a long PDF.")
    parser.add_argument("--pages", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/documents_memory.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        long_document(folder / "long.pdf", options.pages)
        result = asyncio.run(read(folder / "long.pdf", folder / "figures"))
    known = {
        "command": f"python -m benchmarks.documents_memory --pages {options.pages}",
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }
    text = json.dumps(known | result, indent=2)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
