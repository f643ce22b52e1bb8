"""What ten times too many requests get: how soon the refused ones know it, and whether the others wait longer for it.

    python -m benchmarks.overload --queue-timeout 0.25 --out benchmarks/results/overload.json
    python -m benchmarks.overload                                     with what the server has by default

A mock engine answers `--slots` requests at a time, each in `--seconds`; that is its capacity. A real gateway before it
is asked at half of that, and then at `--times` of it, by arrivals that do not wait for answers (an open loop). The
budget: a refusal within 50 ms at p99, and an accepted answer at p99 no later than at half load plus `--queue-timeout`,
which is how long the operator lets requests wait. Times are the client's, from when a request was due, on the same
machine, so they include its own share of the work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import uvloop

from benchmarks.environment import environment
from benchmarks.gateway_overhead import PATH, native_of
from benchmarks.processes import free_port, homescope, mock_engine

REFUSED = 429
BUDGET_MS = 50.0
REASON = re.compile(r'^homescope_queue_refusals_total\{.*reason="(\w+)".*\} ([\d.e+]+)$', re.MULTILINE)


@dataclass
class Phase:
    """What a phase brought, in seconds by status."""

    offered_per_s: float
    seconds: dict[int, list[float]] = field(default_factory=dict)
    late: list[float] = field(default_factory=list)
    """By how much later than meant the requests were sent: above some ms the client is what is measured."""

    def add(self, status: int, seconds: float) -> None:
        self.seconds.setdefault(status, []).append(seconds)

    def to_json(self) -> dict[str, Any]:
        return {
            "offered_per_s": round(self.offered_per_s, 2),
            "client_late_ms_p99": _ms(self.late, 99),
            "answers": dict(
                sorted(Counter({str(status): len(found) for status, found in self.seconds.items()}).items())
            ),
            **{
                name: {f"p{at}_ms": _ms(self.seconds.get(status, []), at) for at in (50, 99)}
                for name, status in (("accepted", 200), ("refused", REFUSED))
            },
        }


def _ms(seconds: list[float], percentile: int) -> float | None:
    return round(float(np.percentile(seconds, percentile)) * 1e3, 1) if seconds else None


async def offer(session: aiohttp.ClientSession, url: str, body: bytes, rate: float, seconds: float) -> Phase:
    """Poisson arrivals, `rate` a second; returns when all have been answered."""
    phase = Phase(rate)
    randomness = random.Random(1)
    began = time.perf_counter()

    async def one(due: float) -> None:
        async with session.post(url, data=body) as response:
            await response.read()
            phase.add(response.status, time.perf_counter() - began - due)

    due = 0.0
    async with asyncio.TaskGroup() as group:
        while (due := due + randomness.expovariate(rate)) < seconds:
            await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
            phase.late.append(time.perf_counter() - began - due)
            group.create_task(one(due))
    return phase


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    body = native_of(options.kilobytes * 1000)
    capacity, operators = options.slots / options.seconds, free_port()
    settings = {
        "HOMESCOPE_MAX_IN_FLIGHT": str(options.slots),
        "HOMESCOPE_MAX_QUEUED": str(options.queued),
        "HOMESCOPE_QUEUE_TIMEOUT": str(options.queue_timeout),
        "HOMESCOPE_ADMIN_PORT": str(operators),
    }
    knobs = ("--slots", str(options.slots), "--ttft", str(options.seconds), "--pieces", "8")
    async with mock_engine(*knobs) as (engine, _), homescope(engine, **settings) as (url, key, tree):
        headers = {"authorization": f"Bearer {key}", "cache-control": "no-store"}
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
            half = await offer(session, url + PATH, body, capacity / 2, options.calm)
            before, known = tree.cpu_s(), await _refusals(session, operators)
            over = await offer(session, url + PATH, body, capacity * options.times, options.duration)
            cpu, refusals = tree.cpu_s() - before, await _refusals(session, operators)
    return _judged(options, half, over, cpu, refusals - known)


async def _refusals(session: aiohttp.ClientSession, port: int) -> Counter[str]:
    """Refused by the gateway so far, by reason."""
    async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
        found = REASON.findall(await response.text())
    counts: Counter[str] = Counter()
    for reason, count in found:
        counts[reason] += round(float(count))
    return counts


def _judged(
    options: argparse.Namespace, half: Phase, over: Phase, cpu_s: float, refusals: Counter[str]
) -> dict[str, Any]:
    calm, busy = half.to_json(), over.to_json()
    before, after, refused = (each["p99_ms"] for each in (calm["accepted"], busy["accepted"], busy["refused"]))
    allowed = None if before is None else round(before + options.queue_timeout * 1e3, 1)
    answered = sum(len(each) for each in over.seconds.values())
    return {
        "environment": environment(),
        "capacity_per_s": options.slots / options.seconds,
        "image_kb": options.kilobytes,
        "queued": options.queued,
        "queue_timeout_s": options.queue_timeout,
        "half_load": calm,
        "overload": busy,
        "refusals": dict(sorted(refusals.items())),
        "gateway_cpu_ms_per_request": round(cpu_s / max(1, answered) * 1e3, 3),
        "refused_within_budget": refused is not None and refused <= BUDGET_MS,
        "accepted_p99_allowed_ms": allowed,
        "accepted_keep_their_latency": None not in (allowed, after) and after <= allowed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=8, help="answers at a time")
    parser.add_argument("--seconds", type=float, default=2.0, help="that an answer takes")
    parser.add_argument("--queued", type=int, default=512, help="requests that may wait in the gateway")
    parser.add_argument("--queue-timeout", type=float, default=60.0, help="seconds that they may wait")
    parser.add_argument("--times", type=float, default=10.0, help="of the capacity that is asked for")
    parser.add_argument("--calm", type=float, default=60.0, help="seconds at half load")
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of too many")
    parser.add_argument("--kilobytes", type=int, default=100, help="of the image in each request")
    parser.add_argument("--out", type=Path, help="file to keep the result in")
    options = parser.parse_args()
    text = json.dumps(uvloop.run(measure(options)), indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
