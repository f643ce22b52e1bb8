"""What was on the wire and when, by tcpdump on the loopback device: a clock that the generator has no part in.

Kept are the first segments of requests and of answers alone, which the kernel picks out, so that the capture takes next
to nothing from what it watches.
"""

from __future__ import annotations

import asyncio
import shutil
import struct
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.record import Record

_NANOSECONDS = 0xA1B23C4D
_ETHERNET = 14
_STARTS_WITHIN_S = 10.0
_DRIFT = 200_000


class NoCapture(Exception):
    """Raised when there is none to be had here; the message says why."""


class Exchange(NamedTuple):
    """Of one request: when its first segment, and the first one of its answer, were on the wire. Nanoseconds of
    `time.perf_counter_ns`."""

    asked: int
    answered: int


@dataclass
class Capture:
    """What tcpdump has written so far, by the clock of the monotonic times, which is `offset` behind the wall's."""

    file: Path
    port: int
    offset: int

    def seen(self) -> dict[int, list[Exchange]]:
        """The exchanges of each port of a client, in their order."""
        return exchanges(self.file.read_bytes(), self.port, self.offset)

    async def whole(self, count: int) -> dict[int, list[Exchange]]:
        """Once so many exchanges are in it, or no more come: packets are written a moment after they were there."""
        for _ in range(50):
            found = await asyncio.to_thread(self.seen)
            if sum(map(len, found.values())) >= count:
                break
            await asyncio.sleep(0.1)
        if abs(_wall_clock() - self.offset) > _DRIFT:
            raise NoCapture("the machine's clock was set meanwhile")
        return found


def matched(records: Sequence[Record], seen: Mapping[int, Sequence[Exchange]]) -> list[tuple[Record, Exchange]]:
    """Each record with its exchange: the n-th that was sent from a port is the n-th on the wire.

    Raises:
        NoCapture: the wire has more or fewer exchanges of a port than there are records.
    """
    by_port: dict[int, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.sent):
        by_port[record.port].append(record)
    for port, own in by_port.items():
        if len(seen.get(port, ())) != len(own):
            raise NoCapture(f"port {port} sent {len(own)} requests, on the wire were {len(seen.get(port, ()))}")
    return [pair for port, own in by_port.items() for pair in zip(own, seen[port], strict=True)]


@asynccontextmanager
async def capturing(port: int, file: Path) -> AsyncGenerator[Capture, None]:
    """Captures what a server on a port of the loopback device is asked, and what it answers.

    Raises:
        NoCapture: tcpdump is not installed, or may not capture.
    """
    process = await _tcpdump(port, file)
    try:
        yield Capture(file, port, _wall_clock())
    finally:
        process.terminate()
        await process.wait()


def _wall_clock() -> int:
    """What the wall clock, which packets are stamped by, is ahead of the monotonic one."""
    return min((_ahead() for _ in range(9)), key=lambda pair: pair[1])[0]


def _ahead() -> tuple[int, int]:
    before, wall, after = time.perf_counter_ns(), time.time_ns(), time.perf_counter_ns()
    return wall - (before + after) // 2, after - before


async def _tcpdump(port: int, file: Path) -> asyncio.subprocess.Process:
    if shutil.which("tcpdump") is None:
        raise NoCapture("tcpdump is not installed")
    payload = "tcp[((tcp[12:1] & 0xf0) >> 2):4]"  # the first four bytes: POST, or HTTP
    picked = f"tcp port {port} and ({payload} = 0x504f5354 or {payload} = 0x48545450)"
    options = ["-i", "lo", "-n", "-s", "128", "--time-stamp-precision=nano", "-U", "--immediate-mode"]
    with file.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            "tcpdump", *options, "-w", "-", picked, stdout=out, stderr=asyncio.subprocess.PIPE
        )
    assert process.stderr is not None
    said = b""
    try:
        async with asyncio.timeout(_STARTS_WITHIN_S):
            while b"listening on" not in said:
                line = await process.stderr.readline()
                if not line:
                    raise NoCapture(f"tcpdump captures nothing: {said.decode(errors='replace').strip()}")
                said += line
    except (NoCapture, TimeoutError) as error:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise NoCapture(str(error) or "tcpdump does not start") from error
    return process


def exchanges(pcap: bytes, port: int, offset: int) -> dict[int, list[Exchange]]:
    """By the client's port. An answer without a request, and a request without an answer, are left out.

    Raises:
        NoCapture: not what tcpdump writes.
    """
    if len(pcap) < 24 or struct.unpack_from("=I", pcap)[0] != _NANOSECONDS:
        raise NoCapture("tcpdump wrote something else than packets with nanoseconds")
    found: dict[int, list[Exchange]] = defaultdict(list)
    asked: dict[int, int] = {}
    at = 24
    while at + 16 <= len(pcap):
        seconds, nanoseconds, length, _ = struct.unpack_from("=IIII", pcap, at)
        source, target = _ports(pcap[at + 16 : at + 16 + length])
        now = seconds * 1_000_000_000 + nanoseconds - offset
        if target == port:
            asked.setdefault(source, now)
        elif source == port and target in asked:
            found[target].append(Exchange(asked.pop(target), now))
        at += 16 + length
    return found


def _ports(packet: bytes) -> tuple[int, int]:
    """Of a TCP segment in IPv4 in Ethernet."""
    start = _ETHERNET + (packet[_ETHERNET] & 0x0F) * 4
    source, target = struct.unpack_from("!HH", packet, start)
    return source, target


def distances(pairs: Sequence[tuple[Record, Exchange]], began: int) -> Mapping[str, list[float]]:
    """Milliseconds that the generator's times are from the wire's; `began` is when the records' clock did.

    `request`: the first segment left after `sent`. `first_token`: it was heard after it was on the wire. `ttft`: from
    the send, the generator's less the wire's.
    """
    heard = [(record, record.first, wire) for record, wire in pairs if record.first is not None]
    return {
        "request": [(wire.asked - began - record.sent) / 1e6 for record, wire in pairs],
        "first_token": [(began + first - wire.answered) / 1e6 for _, first, wire in heard],
        "ttft": [(first - record.sent - (wire.answered - wire.asked)) / 1e6 for record, first, wire in heard],
    }
