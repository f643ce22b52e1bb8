"""The generator against engines whose delays are known."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Iterable
from itertools import islice

import pytest

from benchmarks import mock_engine
from benchmarks.arrivals import constant
from benchmarks.connection import BadTarget, Links
from benchmarks.dialects import DIALECTS
from benchmarks.generator import Plan, Target, running
from benchmarks.mock_engine import Engine, Knobs, listen
from benchmarks.record import Record
from benchmarks.report import report
from benchmarks.run import Open, load
from benchmarks.workload import Ask, Workload
from tests.benchmarks.conftest import Mock
from tests.clocks import undisturbed

TEXT = [Ask((), "Hello.")]


async def run(
    url: str, dues: Iterable[float], dialect: str = "compatible-sse", plan: Plan | None = None, asks: list[Ask] = TEXT
) -> list[Record]:
    records: list[Record] = []
    async with running(Target(url, DIALECTS[dialect], "mock"), plan or Plan(), records.append) as generator:
        await generator.open(asks, dues)
    return sorted(records, key=lambda record: record.number)


@undisturbed
async def test_percentiles_are_the_engines(mock: Mock) -> None:
    """First tokens after 100, 200, ... 1000 ms: their percentiles are known, and so are the gaps of 20 ms."""
    delays = tuple(at / 10 for at in range(1, 11))
    async with mock(Knobs(ttft=delays, gap=0.02, pieces=(5,))) as (url, _):
        records = await run(url, constant(10, 2))

    found = report(records).latencies
    for name, true in (("p50", 0.5), ("p90", 0.9), ("p99", 1.0)):
        assert found["ttft"].percentiles[name].value == pytest.approx(true, abs=0.09)  # the next one is 0.1 away
        assert found["e2e"].percentiles[name].value == pytest.approx(true + 0.08, abs=0.09)
    assert found["itl"].mean.value == pytest.approx(0.02, abs=0.005)
    assert found["tpot"].percentiles["p50"].value == pytest.approx(0.02, abs=0.005)


@undisturbed
async def test_a_stall_shows_from_the_intended_start_and_hides_from_the_send(mock: Mock) -> None:
    """One request at a time, 20 a second, 5 ms each; then nothing for a second: all that were due meanwhile waited."""
    async with mock(Knobs(ttft=(0.005,), pieces=(1,))) as (url, engine):
        asyncio.get_running_loop().call_later(1.0, engine.control, json.dumps({"stall": 1.0}).encode())
        records = await run(url, constant(20, 3), plan=Plan(limit=1))

    found = report(records)
    # Of 60 requests one was slow once it was sent, and twenty were late.
    assert found.latencies["e2e_from_send"].percentiles["p90"].value < 0.3
    assert found.latencies["e2e"].percentiles["p99"].value == pytest.approx(1.0, abs=0.3)
    assert found.latencies["e2e"].percentiles["p90"].value > 0.5


async def test_a_generator_that_is_held_up_says_that_its_run_is_invalid(mock: Mock) -> None:
    async with mock(Knobs(pieces=(1,))) as (url, _):
        for at in (0.3, 0.5, 0.7, 0.9):  # of some hundred looks at the loop one that is late is below the p99
            asyncio.get_running_loop().call_later(at, time.sleep, 0.15)  # whatever else takes the loop's time
        outcome = await load(Target(url, DIALECTS["compatible"], "mock"), TEXT, Open(constant(50, 1), "constant:50"))

    reasons = " ".join(report(outcome.records, outcome.run).invalid)
    assert "the generator lagged" in reasons
    assert "event loop was late" in reasons


async def test_a_rate_that_is_not_reached_says_why(mock: Mock) -> None:
    """Twenty a second, and one at a time that takes 200 ms."""
    async with mock(Knobs(ttft=(0.2,), pieces=(1,))) as (url, _):
        target = Target(url, DIALECTS["compatible"], "mock")
        outcome = await load(target, TEXT, Open(constant(20, 1), "constant:20"), Plan(limit=1))

    reasons = " ".join(report(outcome.records, outcome.run).invalid)
    assert "of the intended rate, limit 99%: the limit of requests in flight held requests back" in reasons


async def test_nothing_is_sent_before_it_is_due(mock: Mock) -> None:
    """uvloop's timers end up to half a millisecond early."""
    dues = [0.0104 + number * 0.0104 for number in range(40)]
    async with mock(Knobs(pieces=(1,))) as (url, _):
        records = await run(url, dues)

    assert min(record.sent - record.intended for record in records) >= 0


@undisturbed
async def test_a_slow_engine_delays_no_send(mock: Mock) -> None:
    async with mock(Knobs(ttft=(0.5,), pieces=(1,))) as (url, _):
        records = await run(url, constant(20, 0.5))

    assert len(records) == 10
    assert max(record.sent for record in records) < 0.5 * 1e9
    assert min(record.end for record in records) > 0.5 * 1e9


@pytest.mark.parametrize("dialect", ["compatible", "compatible-sse"])
async def test_what_was_answered_is_counted(mock: Mock, dialect: str) -> None:
    async with mock(Knobs(pieces=(7,))) as (url, _):
        asks = list(islice(Workload("noise", 64, 32, images=2).asks(), 1))
        (record,) = await run(url, [0.0], dialect, asks=asks)

    assert record.ok
    assert (record.images, record.pixels) == (2, 2 * 64 * 32)
    assert (record.input_tokens, record.output_tokens, record.image_tokens) == (320, 7, 300)
    assert record.bytes_sent > 2 * 64 * 32 * 3
    assert len(record.digest) == 64
    assert len(record.gaps) == (6 if dialect == "compatible-sse" else 0)


@pytest.mark.ring3
@undisturbed
async def test_the_first_token_is_when_the_engine_wrote_it() -> None:
    """Within a few milliseconds of the engine's own clock, which is the same one."""
    log = io.StringIO()
    async with await listen(Engine(Knobs(ttft=(0.05, 0.11), pieces=(3,)), log)) as server:
        began = time.perf_counter_ns()
        records = await run(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", [0.0, 0.3, 0.6])

    written = sorted(json.loads(line)["first"] for line in log.getvalue().splitlines())
    start = written[0] - (records[0].first or 0)
    assert start >= began
    for record, first in zip(records, written, strict=True):
        assert record.first is not None
        assert abs(start + record.first - first) < 20e6


async def test_refusals_are_told_by_their_code(mock: Mock) -> None:
    async with mock(Knobs(error={"429": 1.0})) as (url, _):
        records = await run(url, [0.0, 0.0])

    assert [(record.status, record.outcome) for record in records] == [(429, "429")] * 2


async def test_a_connection_that_breaks_is_a_failure(mock: Mock) -> None:
    async with mock(Knobs(error={"599": 1.0}, pieces=(10,))) as (url, _):
        (record,) = await run(url, [0.0])

    assert record.outcome == "ConnectionClosed"
    assert record.first is not None


@pytest.mark.ring3
async def test_a_stream_that_ends_early_is_a_failure() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = mock_engine.event("half", None, 1)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        writer.write(b"content-length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
        (record,) = await run(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", [0.0])

    assert record.outcome == "CutOff"


@pytest.mark.ring3
async def test_nobody_there_is_a_failure_of_each_request(unused_tcp_port: int) -> None:
    records = await run(f"http://127.0.0.1:{unused_tcp_port}", [0.0, 0.0])

    assert [record.outcome for record in records] == ["ConnectionRefusedError"] * 2


async def test_whoever_waits_too_long_gives_up(mock: Mock) -> None:
    async with mock(Knobs(ttft=(5.0,))) as (url, _):
        (record,) = await run(url, [0.0], plan=Plan(timeout=0.1))

    assert record.outcome == "TimedOut"
    assert record.end < 4.5e9


async def test_clients_that_hang_up_leave_after_the_first_piece(mock: Mock) -> None:
    async with mock(Knobs(ttft=(0.01,), gap=0.5, pieces=(20,))) as (url, _):
        records = await run(url, [0.0, 0.0], plan=Plan(hang_up=1.0))

    assert [record.outcome for record in records] == ["HungUp"] * 2
    assert all(record.first is not None and record.end < 8e9 for record in records)


@undisturbed
async def test_users_who_wait_send_one_after_the_other(mock: Mock) -> None:
    records: list[Record] = []
    async with mock(Knobs(ttft=(0.05,), pieces=(1,))) as (url, _):
        target = Target(url, DIALECTS["compatible"], "mock")
        async with running(target, Plan(), records.append) as generator:
            await generator.closed(TEXT, users=2, seconds=0.5)

    assert 4 <= len(records) <= 20
    spans = sorted((record.sent, record.end) for record in records)
    assert all(
        third[0] >= min(first[1], second[1]) for first, second, third in zip(spans, spans[1:], spans[2:], strict=False)
    )


async def test_requests_end_with_their_source(mock: Mock) -> None:
    records: list[Record] = []
    async with (
        mock(Knobs()) as (url, _),
        running(Target(url, DIALECTS["compatible"], "mock"), Plan(), records.append) as generator,
    ):
        await generator.open(iter(TEXT * 2), [0.0] * 5)

    assert len(records) == 2


async def test_answers_are_scored(mock: Mock) -> None:
    plan = Plan(score=lambda ask, text: float(text.startswith("token")))
    async with mock(Knobs()) as (url, _):
        (record,) = await run(url, [0.0], plan=plan)

    assert record.score == 1.0


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(BadTarget, match="localhost:8000"):
        Links("localhost:8000", {})
