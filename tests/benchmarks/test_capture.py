"""The generator's times against packets: real ones where tcpdump may capture, and a file of packets made by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from benchmarks.arrivals import constant
from benchmarks.capture import Exchange, NoCapture, capturing, distances, exchanges, matched
from benchmarks.dialects import DIALECTS
from benchmarks.generator import Plan, Target, running
from benchmarks.mock_engine import Knobs
from benchmarks.record import Record
from benchmarks.workload import Ask
from tests.benchmarks.conftest import Mock
from tests.benchmarks.made import record
from tests.clocks import undisturbed

SERVER = 8000
MILLISECOND = 1_000_000


def pcap(*packets: tuple[int, int, int]) -> bytes:
    """A file of segments, each from a port to a port at a time in nanoseconds."""
    file = struct.pack("=IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, 128, 1)
    for source, target, now in packets:
        packet = bytes(12) + b"\x08\x00" + b"\x45" + bytes(19) + struct.pack("!HH", source, target) + bytes(20)
        file += struct.pack("=IIII", *divmod(now, 1_000_000_000), len(packet), 900) + packet
    return file


def test_a_ports_requests_have_their_answers_in_turn() -> None:
    second = 1_000_000_000
    packets = [(41, SERVER, second), (42, SERVER, second + 5), (SERVER, 42, second + 7), (SERVER, 41, second + 9)]
    again = [(41, SERVER, 2 * second), (SERVER, 41, 2 * second + 3)]

    found = exchanges(pcap(*packets, *again), SERVER, offset=second)

    assert found == {41: [Exchange(0, 9), Exchange(second, second + 3)], 42: [Exchange(5, 7)]}


def test_what_the_generator_adds_is_told() -> None:
    one = record(0, 0.0, 1.0, port=41, sent=0, first=60 * MILLISECOND)
    seen = {41: [Exchange(1_000 + MILLISECOND, 1_000 + 59 * MILLISECOND)]}

    assert distances(matched([one], seen), began=1_000) == {"request": [1.0], "first_token": [1.0], "ttft": [2.0]}


def test_a_request_that_was_not_seen_is_told_and_not_guessed() -> None:
    with pytest.raises(NoCapture, match="port 41 sent 2 requests, on the wire were 1"):
        matched([record(at, at, 1.0, port=41) for at in range(2)], {41: [Exchange(1, 2)]})


def test_another_file_is_no_capture() -> None:
    with pytest.raises(NoCapture, match="something else"):
        exchanges(b"", SERVER, 0)


async def test_without_tcpdump_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(NoCapture, match="tcpdump is not installed"):
        async with capturing(SERVER, tmp_path / "wire.pcap"):
            pytest.fail("there is nothing to capture with")


@pytest.mark.ring3
async def test_a_tcpdump_that_may_not_capture_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "tcpdump"
    tool.write_text("#!/bin/sh\necho 'lo: You do not have permission to capture on that device' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")

    with pytest.raises(NoCapture, match="You do not have permission"):
        async with capturing(SERVER, tmp_path / "wire.pcap"):
            pytest.fail("there is nothing to capture with")


@undisturbed
async def test_each_request_is_found_on_the_wire(mock: Mock, tmp_path: Path) -> None:
    records: list[Record] = []
    async with mock(Knobs(ttft=(0.03, 0.2), gap=0.01, pieces=(3,))) as (url, _):
        try:
            async with capturing(int(url.rpartition(":")[2]), tmp_path / "wire.pcap") as capture:
                target = Target(url, DIALECTS["compatible-sse"], "mock")
                async with running(target, Plan(), records.append) as generator:
                    await generator.open([Ask((), "Hello.")], constant(10, 1))
                seen = await capture.whole(10)
        except NoCapture as error:
            pytest.skip(str(error))

    found = distances(matched(records, seen), generator.start)

    assert len(found["ttft"]) == 10
    assert min(found["request"]) > 0  # after the generator gave it away, and heard after the wire had it
    assert min(found["first_token"]) > 0
    # The 30 and 200 ms of the engine are on the wire, too: only what the generator adds is left.
    assert sorted(found["ttft"])[5] < 20
