"""What a gateway takes of a machine for each request, and adds to its time.

Everything is measured on one mock engine, peer after peer in turns whose order rotates, so that whatever else the
machine does meets all of them. CPU is the time of the peer's whole process tree, which other load hardly changes.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any

import numpy as np

from benchmarks.arrivals import poisson
from benchmarks.dialects import Compatible, Dialect, Native
from benchmarks.estimates import bootstrap, percentile
from benchmarks.generator import Plan, Target, running
from benchmarks.peers.stacks import Peer
from benchmarks.processes import turn
from benchmarks.record import Record
from benchmarks.workload import Ask, Workload

USERS = 4
STREAMS = 20
EVENTS = 200
GAP = 0.02
ENOUGH = 2000
"""Requests for a p99: twenty are above it."""
_WARM = 10


class PeerFailed(Exception):
    """Raised when a peer refuses what all others answer; its numbers would be of something else."""


@dataclass(frozen=True)
class Case:
    """A kind of request. `requests` in each turn."""

    name: str
    megabytes: float
    stream: bool
    requests: int

    def workload(self, seed: int) -> Workload:
        """Noise, so that bytes are what they say, and each picture once, so that every cache misses."""
        side = ceil((self.megabytes * 1e6 / 3) ** 0.5)
        return Workload("noise", side, side, output_tokens=128, seed=seed)


CASES = [
    Case(f"{size:g} MB {'sse' if stream else 'sync'}", size, stream, requests)
    for size, requests in ((0.1, 200), (0.2, 160), (1.0, 60), (5.0, 16))
    for stream in (False, True)
]


def target(peer: Peer, stream: bool) -> Target:
    dialect: Dialect = Native(stream) if peer.native else Compatible(stream)
    return Target(peer.url, dialect, peer.model, peer.key, name=peer.name)


_seeds = itertools.count()


def fresh(case: Case, peers: list[Peer]) -> dict[str, Iterator[Ask]]:
    """Endless requests for each peer, of pictures that none has seen: whole and streamed answers share a cache."""
    seed = next(_seeds)
    return {peer.name: case.workload(seed).asks() for peer in peers}


async def closed(peer: Peer, stream: bool, asks: list[Ask], users: int = USERS) -> list[Record]:
    """Sends each once, so many at a time. Raises PeerFailed."""
    records: list[Record] = []
    # A limit of requests in flight makes an open load, all of which is due at once, a closed one.
    async with running(target(peer, stream), Plan(limit=users), records.append) as generator:
        await generator.open(iter(asks), itertools.repeat(0.0, len(asks)))
    _all_ok(peer, records)
    return records


def _all_ok(peer: Peer, records: list[Record]) -> None:
    failed = next((record for record in records if not record.ok), None)
    if failed is not None:
        raise PeerFailed(f"{peer.name}: {failed.outcome} (HTTP {failed.status})")


async def cpu_ms(peer: Peer, stream: bool, asks: list[Ask], users: int = USERS) -> float:
    """Milliseconds of CPU of the peer's processes for each request."""
    if peer.tree is None:
        await closed(peer, stream, asks, users)
        return 0.0
    before = peer.tree.cpu_s()
    await closed(peer, stream, asks, users)
    return (peer.tree.cpu_s() - before) / len(asks) * 1e3


async def cpu(peers: list[Peer], case: Case, turns: int) -> dict[str, Any]:
    """CPU for each request of every peer: the median of the turns, and all of them."""
    sources = fresh(case, peers)
    taken: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for number in range(turns + 1):
        for peer in rotated(peers, number):
            count = case.requests if number else _WARM
            used = await cpu_ms(peer, case.stream, list(itertools.islice(sources[peer.name], count)))
            if number:  # the first turn warms up
                taken[peer.name].append(used)
    return {
        name: {"median": round(statistics.median(runs), 3), "turns": _rounded(runs)} for name, runs in taken.items()
    }


async def added(peers: list[Peer], case: Case, turns: int) -> dict[str, Any]:
    """Milliseconds of one request after the other, and what each peer adds to the direct way."""
    sources = fresh(case, peers)
    taken: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for number in range(turns + 1):
        for peer in rotated(peers, number):
            asks = list(itertools.islice(sources[peer.name], max(4, case.requests // 4)))
            records = await closed(peer, case.stream, asks, users=1)
            if number:
                taken[peer.name] += [(each.end - each.sent) / 1e6 for each in records]
    return against_direct({name: sorted(each) for name, each in taken.items()})


def against_direct(taken: dict[str, list[float]]) -> dict[str, Any]:
    """Percentiles of each, and their difference to the direct way's."""
    result: dict[str, Any] = {}
    for name, values in taken.items():
        row = {f"p{q:g}": round(percentile(values, q / 100), 3) for q in (50, 90, 99)}
        base = taken["direct"]
        row |= {f"added_p{q:g}": round(row[f"p{q:g}"] - percentile(base, q / 100), 3) for q in (50, 99)}
        result[name] = row
    return result


async def events(peers: list[Peer], engine: str, turns: int) -> dict[str, Any]:
    """CPU for each event of a stream, with tokens that come one by one, and the most events a second of a flood.

    Of two answers that differ only in their length the difference is the events' alone.
    """
    text = [Ask((), "Count.", EVENTS)] * (2 * STREAMS)
    result: dict[str, dict[str, list[float]]] = {peer.name: {"us": [], "rate": []} for peer in peers}
    for number in range(turns + 1):
        for peer in rotated(peers, number):
            seen = await _stream_turn(
                peer, engine, [replace(ask, prompt=f"Count. {number} {at}") for at, ask in enumerate(text)]
            )
            for name, value in seen.items() if number else ():
                result[peer.name][name].append(value)
    await turn(engine, pieces=[1], gap=0.0)
    return {
        name: {
            "cpu_us_per_event": round(statistics.median(each["us"]), 1),
            "events_per_second": round(statistics.median(each["rate"])),
            "turns_us": _rounded(each["us"]),
        }
        for name, each in result.items()
    }


async def _stream_turn(peer: Peer, engine: str, asks: list[Ask]) -> dict[str, float]:
    await turn(engine, pieces=[1], gap=0.0)
    short = await cpu_ms(peer, True, asks, STREAMS)
    await turn(engine, pieces=[EVENTS], gap=GAP)
    long = await cpu_ms(peer, True, [replace(ask, prompt=ask.prompt + " Slowly.") for ask in asks], STREAMS)
    await turn(engine, pieces=[EVENTS], gap=0.0)
    records = await closed(peer, True, [replace(ask, prompt=ask.prompt + " Fast.") for ask in asks], STREAMS)
    seconds = (max(each.end for each in records) - min(each.sent for each in records)) / 1e9
    return {"us": (long - short) / (EVENTS - 1) * 1e3, "rate": len(records) * EVENTS / seconds}


async def half_load(peers: list[Peer], case: Case, turns: int, requests: int = ENOUGH) -> dict[str, Any]:
    """Latency of each peer at half of what it can do, by an open load, beside the direct way at the same rate.

    Both get the same pictures at the same times, in turns; `requests` is how many of each there are at least. Latency
    counts from when a request was due. `late_p99` is how late the generator itself was, in milliseconds: above 5 the
    machine is too busy to tell.
    """
    result: dict[str, Any] = {}
    for peer in peers:
        if peer.name == "direct":
            continue
        pair = [peers[0], peer]
        sources = fresh(case, pair)
        rate = await _closed_rate(peer, case, sources[peer.name]) / 2
        await closed(pair[0], case.stream, list(itertools.islice(sources["direct"], case.requests)))
        taken: dict[str, list[Record]] = {each.name: [] for each in pair}
        for number in range(turns):
            for each in rotated(pair, number):
                asks = list(itertools.islice(sources[each.name], ceil(requests / turns)))
                taken[each.name] += await _open(each, case, asks, rate, number)
        result[peer.name] = {"rate": round(rate, 1), **_beside(taken["direct"], taken[peer.name])}
    return result


async def _closed_rate(peer: Peer, case: Case, asks: Iterator[Ask]) -> float:
    records = await closed(peer, case.stream, list(itertools.islice(asks, case.requests)))
    return len(records) / (max(each.end for each in records) / 1e9)


async def _open(peer: Peer, case: Case, asks: list[Ask], rate: float, seed: int) -> list[Record]:
    """Sends each once, by Poisson arrivals; in the order in which they were due. Raises PeerFailed: who answers only
    some of them is not slow, but overloaded."""
    records: list[Record] = []
    async with running(target(peer, case.stream), Plan(), records.append) as generator:
        await generator.open(iter(asks), poisson(rate, inf, seed))
    _all_ok(peer, records)
    return sorted(records, key=lambda record: record.number)


def _beside(direct: list[Record], through: list[Record]) -> dict[str, Any]:
    """Percentiles of the second, what they are above the first's, and how certain that is at p99 (95 %)."""
    pairs = np.array([[each.end - each.intended for each in records] for records in (direct, through)]).T / 1e6
    rows = against_direct({"direct": sorted(pairs[:, 0]), "through": sorted(pairs[:, 1])})
    added = bootstrap(pairs, lambda drawn: float(np.subtract(*np.percentile(drawn[:, ::-1], 99, axis=0))), rounds=500)
    late = sorted((each.sent - each.intended) / 1e6 for each in (*direct, *through))
    return {
        **rows["through"],
        "added_p99_interval": [round(end, 3) for end in (added.low, added.high) if end is not None],
        "direct_p99": rows["direct"]["p99"],
        "requests": len(through),
        "late_p99": round(percentile(late, 0.99), 3),
    }


async def memory(peers: list[Peer], requests: int) -> dict[str, Any]:
    """RSS of each peer's processes before, while and ten seconds after it got many images of one megabyte."""
    result: dict[str, Any] = {}
    case = Case("memory", 1.0, False, requests)
    for peer in peers:
        if peer.tree is None:
            continue
        idle, most = peer.tree.rss_mb(), 0.0
        source = fresh(case, [peer])[peer.name]
        for _ in range(max(1, requests // 50)):
            await closed(peer, False, list(itertools.islice(source, 50)), users=8)
            most = max(most, peer.tree.rss_mb())
        await asyncio.sleep(10)
        after = peer.tree.rss_mb()
        result[peer.name] = {"idle_mb": round(idle, 1), "most_mb": round(most, 1), "after_mb": round(after, 1)}
    return result


def rotated(peers: list[Peer], number: int) -> list[Peer]:
    at = number % len(peers)
    return peers[at:] + peers[:at]


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 3) for value in values]
