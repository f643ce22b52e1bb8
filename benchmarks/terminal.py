"""A report for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.estimates import Estimate
from benchmarks.report import Report


def shown(report: Report, run: Mapping[str, Any], console: Console) -> None:
    """Prints the verdict first, then the numbers."""
    console.print(_verdict(report))
    for line in report.invalid:
        console.print(f"  {line}", style="red")
    for line in report.notes:
        console.print(f"  note: {line}", style="yellow")
    console.print(_rates(report))
    console.print(_latencies(report))
    outcomes = ", ".join(f"{name}: {count:,}" for name, count in report.outcomes.items())
    console.print(f"outcomes   {outcomes}")
    if report.score is not None:
        console.print(f"score      {report.score.value:.1%} of the answers whose truth is known")
    if run.get("commit"):
        console.print(f"commit {run['commit']}, seed {run.get('seed', '?')}", style="dim")


def _verdict(report: Report) -> str:
    valid = "[bold red]INVALID[/]" if report.invalid else "[bold green]valid[/]"
    met = "meets" if report.meets else "misses"
    return (
        f"{valid}: {report.ok:,} of {report.requests:,} requests answered in {report.seconds:.1f} s; "
        f"{met} {report.objective} ({report.good_share:.1%})"
    )


def _rates(report: Report) -> Table:
    table = Table(title="Rates, per second", title_justify="left")
    for name in report.rates:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*(f"{value:,.4g}" for value in report.rates.values()))
    return table


def _latencies(report: Report) -> Table:
    table = Table(title="Latency, milliseconds (95 % interval)", title_justify="left")
    for column in ("", "mean", "p50", "p90", "p99", "p99.9"):
        table.add_column(column, justify="right" if column else "left")
    for name, one in report.latencies.items():
        table.add_row(name.replace("_", " "), f"{one.mean.value * 1e3:,.1f}", *map(_cell, one.percentiles.values()))
    return table


def _cell(estimate: Estimate) -> str:
    low, high = ("?" if end is None else f"{end * 1e3:,.1f}" for end in (estimate.low, estimate.high))
    return f"{estimate.value * 1e3:,.1f} ({low}-{high})"
