"""What the generator itself can do: so many streams at a time in one process, and how true its times are.

    python -m benchmarks.streams --streams 500 --out benchmarks/results/generator.json

The mock engine writes down when each first piece left its socket, by the clock that all processes of a machine share;
the generator's first tokens are set against these.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import uvloop

from benchmarks.arrivals import constant
from benchmarks.dialects import DIALECTS
from benchmarks.environment import environment
from benchmarks.estimates import percentile
from benchmarks.generator import Plan, Target, running
from benchmarks.processes import mock_engine
from benchmarks.record import Record
from benchmarks.workload import Ask

_TTFT, _GAP, _PIECES = 0.5, 0.1, 100


async def _measure(streams: int, seconds: float, log: Path) -> dict[str, Any]:
    """As many streams as are asked for are open once the first ones end: rate times duration."""
    lasts = _TTFT + _GAP * _PIECES
    rate, records = streams / lasts, list[Record]()
    knobs = ("--ttft", str(_TTFT), "--gap", str(_GAP), "--pieces", str(_PIECES), "--log", str(log))
    async with mock_engine(*knobs) as (url, _):
        target = Target(url, DIALECTS["compatible-sse"], "mock")
        async with running(target, Plan(), records.append) as generator:
            began = time.perf_counter_ns()
            await generator.open([Ask((), "Hello.")], constant(rate, seconds))
    lags = sorted(record.lag / 1e6 for record in records)
    return {
        "streams_at_a_time": _most(records),
        "requests": len(records),
        "failed": sum(not record.ok for record in records),
        "lag_ms": {f"p{q}": round(percentile(lags, q / 100), 3) for q in (50, 99)},
        "loop_delay_p99_ms": round(generator.health.delay_p99_ms, 3),
        "cpu_share": round(generator.health.cpu_share, 3),
        "pieces_per_second": round(rate * _PIECES),
        "first_token_after_the_engines_ms": _distances(records, log, began),
    }


def _most(records: list[Record]) -> int:
    changes = sorted([(record.sent, 1) for record in records] + [(record.end, -1) for record in records])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _distances(records: list[Record], log: Path, began: int) -> dict[str, float]:
    """First tokens against what the engine wrote down, both in order; `began` is when the run did."""
    written = sorted(json.loads(line)["first"] for line in log.read_text().splitlines())
    heard = sorted(began + record.first for record in records if record.first is not None)
    distances = sorted((after - before) / 1e6 for before, after in zip(written, heard, strict=True))
    return {f"p{q}": round(percentile(distances, q / 100), 3) for q in (1, 50, 90, 99)}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--streams", default=500, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=30.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(streams: int, seconds: float, out: Path | None) -> None:
    """How many streams the generator holds, and how true its times are."""
    head = environment()
    with tempfile.TemporaryDirectory() as folder:
        found = uvloop.run(_measure(streams, seconds, Path(folder) / "engine.jsonl"))
    text = json.dumps({"benchmark": "streams", "environment": head, **found}, indent=2)
    click.echo(text)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
