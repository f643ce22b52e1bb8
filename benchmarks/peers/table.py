"""The comparison as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

LATE_MS = 5.0
"""At p99: above it a result is the generator's own."""


def shown(result: Mapping[str, Any], console: Console) -> None:
    """Prints every part that was measured."""
    if "cpu_ms" in result:
        console.print(_cpu(result["cpu_ms"]))
    for key, title in (("latency_ms", "Milliseconds, one at a time"), ("half_load_ms", "Milliseconds at half load")):
        if key in result:
            console.print(_latency(title, result[key]))
    if "events" in result:
        console.print(_plain("Streams", ("cpu_us_per_event", "events_per_second"), result["events"]))
    if "memory" in result:
        console.print(_plain("RSS, MB", ("idle_mb", "most_mb", "after_mb"), result["memory"]))


def _cpu(cases: Mapping[str, Any]) -> Table:
    """Milliseconds, and how many times vllm-router's where that was measured."""
    table = _table("CPU ms per request (times vllm-router's)", cases)
    for name in _names(cases):
        row = []
        for case in cases.values():
            value, base = case[name]["median"], case.get("vllm-router", {}).get("median")
            row.append(f"{value:.2f}" + (f" ({value / base:.2f}x)" if base else ""))
        table.add_row(name, *row)
    return table


def _latency(title: str, cases: Mapping[str, Any]) -> Table:
    table = _table(f"{title}: p50 / p99 (added p50 / p99)", cases)
    for name in _names(cases):
        table.add_row(name, *(_row(case[name]) for case in cases.values()))
    return table


def _row(row: Mapping[str, Any]) -> str:
    late = row.get("late_p99", 0.0)
    verdict = f", INVALID: generator late by {late:.0f}" if late > LATE_MS else ""
    return f"{row['p50']:.1f} / {row['p99']:.1f} ({row['added_p50']:+.1f} / {row['added_p99']:+.1f}{verdict})"


def _plain(title: str, columns: Iterable[str], rows: Mapping[str, Any]) -> Table:
    columns = list(columns)
    table = _table(title, columns)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:,}" for column in columns))
    return table


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    return table


def _names(cases: Mapping[str, Any]) -> Iterable[str]:
    return list(next(iter(cases.values())))
