from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from client.errors import ConfigurationError
from client.samples.charts import Language
from client.samples.fonts import fonts
from client.samples.pages import Pages, lay_out
from client.samples.scans import assemble
from client.samples.story import Report, draw_report
from client.samples.wording import letters

__all__ = ["write_reports"]

_NEEDED = ("reportlab", "matplotlib", "mplfonts", "pypdfium2")


def write_reports(folder: Path, count: int, seed: int) -> Iterator[Path]:
    """Writes annual reports as PDF, every second one in English, each with what its figures say beside it.

    `report-001.json` holds, for each figure, page (from 1), box (left, top, right, bottom in points from the upper
    left), kind, caption, whether its page is scanned, and the values that are printed. The same seed gives the same
    reports.

    Yields:
        The PDF files, as they are written.

    Raises:
        ConfigurationError: a package of the extras `demo` and `documents` is missing.
        OSError: the folder cannot be written.
    """
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ConfigurationError(f"sample reports need {', '.join(missing)}: pip install 'homescope[demo,documents]'")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        rng = random.Random(f"{seed}:{number}")
        language: Language = "zh" if number % 2 else "en"
        report = draw_report(rng, language)
        pages = lay_out(report, fonts(letters()), rng)
        path = folder / f"report-{number:03d}.pdf"
        path.write_bytes(assemble(pages, rng))
        known = json.dumps(known_figures(report, pages), ensure_ascii=False, indent=1)
        path.with_suffix(".json").write_text(known + "\n", encoding="utf-8")
        yield path


def known_figures(report: Report, pages: Pages) -> dict[str, Any]:
    """What a reader of the report must find."""
    figures = []
    for placed in pages.placed:
        figure = {
            "page": placed.page,
            "box": [round(side, 1) for side in placed.box],
            "kind": placed.kind,
            "caption": placed.caption,
            "scanned": placed.page in pages.scanned,
        }
        if placed.plate is not None:
            figure |= {"measure": placed.plate.chart.measure, "expected": placed.plate.chart.expected()}
        figures.append(figure)
    return {"company": report.name, "year": report.year, "language": report.language, "figures": figures}
