from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]

from client.finance.export import COLUMNS, write_csv, write_parquet


async def rows(count: int, **changes: Any) -> AsyncIterator[dict[str, Any]]:
    for number in range(count):
        row = dict.fromkeys(COLUMNS["series"], "text") | {
            "page": number, "year": 2024, "flags": 0, "scanned": 1, "value": 1.5, "amount": None,
            "growth_printed": None, "growth_computed": 2.5, "growth": 2.5, "x0": 1.0, "y0": 1.0, "x1": 2.0, "y1": 2.0,
        }  # fmt: skip
        yield row | changes


async def test_parquet_of_several_parts_keeps_types(tmp_path: Path) -> None:
    assert await write_parquet(tmp_path / "s.parquet", "series", rows(12_001)) == 12_001
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.num_rows == 12_001
    assert {name: str(table.schema.field(name).type) for name in ("page", "value", "scanned", "caption")} == {
        "page": "int64", "value": "double", "scanned": "bool", "caption": "string",
    }  # fmt: skip
    assert table.column("amount").null_count == 12_001


async def test_an_empty_table_has_its_columns(tmp_path: Path) -> None:
    assert await write_parquet(tmp_path / "s.parquet", "open_alerts", rows(0)) == 0
    assert pq.read_table(tmp_path / "s.parquet").column_names == list(COLUMNS["open_alerts"])


async def test_text_of_a_document_is_no_formula(tmp_path: Path) -> None:
    await write_csv(tmp_path / "s.csv", "series", rows(1, caption='=HYPERLINK("http://evil")', growth=-2.5))
    text = (tmp_path / "s.csv").read_text("utf-8-sig")
    assert "'=HYPERLINK" in text
    assert ",-2.5," in text
