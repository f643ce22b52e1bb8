from __future__ import annotations

import csv
from collections.abc import AsyncIterable, Mapping
from pathlib import Path
from typing import Any

COLUMNS = {
    "series": (
        "document", "document_digest", "page", "x0", "y0", "x1", "y1", "caption", "scanned", "measure", "unit",
        "currency", "year", "value", "amount", "growth_printed", "growth_computed", "growth", "flags", "model",
        "prompt_version", "read_at",
    ),
    "open_alerts": (
        "document", "document_digest", "page", "x0", "y0", "x1", "y1", "caption", "scanned", "measure", "rule", "label",
        "message", "years", "certain",
    ),
}  # fmt: skip
_WHOLE = {"page", "year", "flags"}
_REAL = {"x0", "y0", "x1", "y1", "value", "amount", "growth_printed", "growth_computed", "growth"}
_YES_NO = {"scanned", "certain"}
_BATCH = 5_000


async def write_csv(path: Path, view: str, rows: AsyncIterable[Mapping[str, Any]]) -> int:
    """A view as CSV, in UTF-8 with a byte order mark: without it Excel shows Chinese as rubbish.

    Returns:
        The number of rows. The file is replaced in one step.
    """
    count, new = 0, path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS[view], extrasaction="ignore")
        writer.writeheader()
        async for row in rows:
            writer.writerow({name: _harmless(_plain(name, row[name])) for name in COLUMNS[view]})
            count += 1
    new.replace(path)
    return count


def _harmless(value: Any) -> Any:
    """Text from a document that a spreadsheet would run as a formula is kept as text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


async def write_parquet(path: Path, view: str, rows: AsyncIterable[Mapping[str, Any]]) -> int:
    """A view as Parquet, written 5,000 rows at a time. Returns the number of rows."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    schema = pa.schema([(name, _type(pa, name)) for name in COLUMNS[view]])
    count, new, waiting = 0, path.with_name(path.name + ".new"), []
    with pq.ParquetWriter(new, schema) as writer:
        async for row in rows:
            waiting.append({name: _plain(name, row[name]) for name in COLUMNS[view]})
            count += 1
            if len(waiting) == _BATCH:
                writer.write_table(pa.Table.from_pylist(waiting, schema))
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_pylist(waiting, schema))
    new.replace(path)
    return count


def _type(pa: Any, name: str) -> Any:
    if name in _WHOLE:
        return pa.int64()
    return pa.float64() if name in _REAL else pa.bool_() if name in _YES_NO else pa.string()


def _plain(name: str, value: Any) -> Any:
    """SQLite has no booleans, and a view of it no times."""
    if value is None or name in _WHOLE | _REAL:
        return value
    return bool(value) if name in _YES_NO else str(value)
