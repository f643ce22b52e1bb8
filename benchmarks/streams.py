"""What the generator itself can do: so many streams at a time in one process, and how true its times are.

    python -m benchmarks.streams --streams 500 --capture --out benchmarks/results/generator.json

The mock engine writes down when each first piece left its socket, by the clock that all processes of a machine share;
the generator's first tokens are set against these. --capture sets every request's times against the packets on the
loopback device, too: tcpdump has to be installed and allowed to, else the result says why there is no capture.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import uvloop

from benchmarks.arrivals import constant
from benchmarks.capture import Capture, NoCapture, capturing, distances, matched
from benchmarks.dialects import DIALECTS
from benchmarks.environment import environment
from benchmarks.estimates import percentile
from benchmarks.generator import Plan, Target, running
from benchmarks.processes import mock_engine
from benchmarks.record import Record
from benchmarks.workload import Ask

_TTFT, _GAP, _PIECES = 0.5, 0.1, 100
_SHARES = (1, 50, 90, 99, 100)
NEAR_MS = 2.0
NOT_ASKED_FOR = "none: --capture was not given"


async def _measure(streams: int, seconds: float, folder: Path, capture: bool) -> dict[str, Any]:
    """As many streams as are asked for are open once the first ones end: rate times duration."""
    lasts = _TTFT + _GAP * _PIECES
    rate, records, log = streams / lasts, list[Record](), folder / "engine.jsonl"
    knobs = ("--ttft", str(_TTFT), "--gap", str(_GAP), "--pieces", str(_PIECES), "--log", str(log))
    async with mock_engine(*knobs) as (url, engine), AsyncExitStack() as wire:
        watched = await _captured(urlsplit(url).port or 0, folder / "wire.pcap", wire) if capture else NOT_ASKED_FOR
        target = Target(url, DIALECTS["compatible-sse"], "mock")
        async with running(target, Plan(), records.append) as generator:
            before = time.process_time(), engine.cpu_s()
            await generator.open([Ask((), "Hello.")], constant(rate, seconds))
            cpu = time.process_time() - before[0], engine.cpu_s() - before[1]
        on_the_wire = await _compared(watched, records, generator.start)
    events = sum(len(record.gaps) + 1 for record in records)
    return {
        "streams_at_a_time": _most(records),
        "requests": len(records),
        "failed": sum(not record.ok for record in records),
        "lag_ms": _percentiles([record.lag / 1e6 for record in records], 50, 99),
        "loop_delay_p99_ms": round(generator.health.delay_p99_ms, 3),
        "cpu_share": round(generator.health.cpu_share, 3),
        "cpu_us_per_piece": {"generator": round(cpu[0] / events * 1e6, 1), "engine": round(cpu[1] / events * 1e6, 1)},
        "pieces_per_second": round(rate * _PIECES),
        "first_token_after_the_engines_ms": _percentiles(_distances(records, log, generator.start), *_SHARES),
        "capture": on_the_wire,
    }


async def _captured(port: int, file: Path, stack: AsyncExitStack) -> Capture | str:
    """A capture that ends with the stack, or why there is none."""
    try:
        return await stack.enter_async_context(capturing(port, file))
    except NoCapture as error:
        return f"none: {error}"


async def _compared(watched: Capture | str, records: list[Record], began: int) -> dict[str, Any] | str:
    """The generator's times less the wire's, or why there is no such thing."""
    if isinstance(watched, str):
        return watched
    try:
        pairs = matched(records, await watched.whole(len(records)))
    except NoCapture as error:
        return f"none: {error}"
    found = distances(pairs, began)
    near = [abs(each) <= NEAR_MS for each in found["ttft"]]
    return {
        "matched": len(pairs),
        "request_after_sent_ms": _percentiles(found["request"], *_SHARES),
        "first_token_after_the_wires_ms": _percentiles(found["first_token"], *_SHARES),
        "ttft_less_the_wires_ms": _percentiles(found["ttft"], *_SHARES),
        f"ttft_within_{NEAR_MS:g}_ms": round(sum(near) / len(near), 4) if near else None,
    }


def _most(records: list[Record]) -> int:
    changes = sorted([(record.sent, 1) for record in records] + [(record.end, -1) for record in records])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _distances(records: list[Record], log: Path, began: int) -> list[float]:
    """First tokens against what the engine wrote down, both in order; `began` is when the run did."""
    written = sorted(json.loads(line)["first"] for line in log.read_text().splitlines())
    heard = sorted(began + record.first for record in records if record.first is not None)
    return [(after - before) / 1e6 for before, after in zip(written, heard, strict=True)]


def _percentiles(values: Sequence[float], *shares: int) -> dict[str, float]:
    ordered = sorted(values)
    return {f"p{q}": round(percentile(ordered, q / 100), 3) for q in shares} if ordered else {}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--streams", default=500, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=30.0, show_default=True)
@click.option("--capture", is_flag=True, help="Compare with packets on the loopback device; wants tcpdump, and root.")
@click.option("--out", type=click.Path(path_type=Path))
def main(streams: int, seconds: float, capture: bool, out: Path | None) -> None:
    """How many streams the generator holds, and how true its times are."""
    head = environment()
    with tempfile.TemporaryDirectory() as folder:
        found = uvloop.run(_measure(streams, seconds, Path(folder), capture))
    text = json.dumps({"benchmark": "streams", "environment": head, **found}, indent=2)
    click.echo(text)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
