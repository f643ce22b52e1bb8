"""What is left of 10,000 requests with 1 MB images: the memory of a real gateway before a mock engine.

    python -m benchmarks.memory --out benchmarks/results/memory.json

Memory is the resident set of the server and all that it started. `idle` is measured after the server has answered
`--warm-up` requests, because the first ones bring in what is loaded once; `after` some seconds after the last one. The
budget: `after` is within 10 % of `idle`. Memory that grows with each request shows in `curve`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from benchmarks.environment import environment
from benchmarks.gateway_overhead import PATH, native_of
from benchmarks.processes import Tree, homescope, mock_engine

PAUSE_S = 10.0
POINTS = 20
BUDGET = 0.10


async def ask(session: aiohttp.ClientSession, url: str, body: bytes, requests: int, at_a_time: int) -> None:
    """Raises SystemExit for an answer that is none."""
    left = iter(range(requests))

    async def work() -> None:
        for _ in left:
            async with session.post(url, data=body) as response:
                answer = await response.read()
                if response.status != 200:
                    raise SystemExit(f"{response.status}: {answer[:200]!r}")

    await asyncio.gather(*(work() for _ in range(at_a_time)))


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    body = native_of(options.kilobytes * 1000)
    async with mock_engine("--pieces", "8") as (engine, _), homescope(engine) as (url, key, tree):
        headers = {"authorization": f"Bearer {key}", "cache-control": "no-store"}
        async with aiohttp.ClientSession(headers=headers) as session:
            started = tree.rss_mb()
            await ask(session, url + PATH, body, options.warm_up, options.concurrency)
            idle = await _rested(tree)
            curve = []
            for _ in range(POINTS):
                await ask(session, url + PATH, body, options.requests // POINTS, options.concurrency)
                curve.append(round(tree.rss_mb(), 1))
        after = await _rested(tree)
    growth = after / idle - 1
    return {
        "environment": environment(),
        "requests": options.requests // POINTS * POINTS,
        "image_kb": options.kilobytes,
        "concurrency": options.concurrency,
        "started_mb": round(started, 1),
        "idle_mb": round(idle, 1),
        "curve_mb": curve,
        "peak_seen_mb": max(curve),
        "after_mb": round(after, 1),
        "growth": round(growth, 4),
        "within_budget": growth <= BUDGET,
    }


async def _rested(tree: Tree) -> float:
    await asyncio.sleep(PAUSE_S)
    return tree.rss_mb()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--kilobytes", type=int, default=1000, help="of the image in each request")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=200, help="requests before the first measurement")
    parser.add_argument("--out", type=Path, help="file to keep the result in")
    options = parser.parse_args()
    text = json.dumps(uvloop.run(measure(options)), indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
