from __future__ import annotations

from itertools import islice

import pytest

from benchmarks.peers.measure import CASES, Case, PeerFailed, against_direct, cpu, fresh, half_load, rotated
from benchmarks.peers.stacks import MODEL, Peer
from benchmarks.processes import mock_engine, turn


def peer(name: str, url: str = "http://127.0.0.1:1") -> Peer:
    return Peer(name, url, "", MODEL, None)


def test_no_case_shares_a_picture_with_another() -> None:
    """An answer that another case left in a cache would make the next one cheap."""
    small = [Case(case.name, 0.005, case.stream, 3) for case in CASES]
    seen = [ask.images[0].digest for case in small for ask in islice(fresh(case, [peer("a")])["a"], 5)]

    assert len(set(seen)) == len(seen)


def test_all_peers_get_the_same_pictures() -> None:
    sources = fresh(CASES[0], [peer("a"), peer("b")])

    assert next(sources["a"]).images[0].digest == next(sources["b"]).images[0].digest


def test_pictures_have_the_bytes_of_their_case() -> None:
    for case in CASES[:6]:
        assert len(next(case.workload(0).asks()).images[0].data) == pytest.approx(case.megabytes * 1e6, rel=0.02)


def test_everybody_is_first_once() -> None:
    peers = [peer(name) for name in "abc"]

    assert [rotated(peers, number)[0].name for number in range(4)] == ["a", "b", "c", "a"]


def test_what_is_added_is_the_difference_of_percentiles() -> None:
    rows = against_direct({"direct": [1.0] * 99 + [5.0], "gateway": [3.0] * 99 + [9.0]})

    assert rows["direct"]["added_p50"] == rows["direct"]["added_p99"] == 0.0
    assert rows["gateway"]["added_p50"] == 2.0


@pytest.mark.ring3
@pytest.mark.timeout(60)
async def test_the_cpu_of_a_process_is_told_for_each_request() -> None:
    """The engine itself as if it were a gateway."""
    async with mock_engine("--pieces", "1") as (url, tree):
        direct, other = peer("direct", url), Peer("other", url, "", MODEL, tree)

        found = await cpu([direct, other], Case("", 0.005, False, 800), turns=1)

    assert found["direct"]["median"] == 0.0
    assert 0.0 < found["other"]["median"] < 50.0


@pytest.mark.ring3
@pytest.mark.timeout(120)
async def test_at_half_load_both_get_as_many_requests_as_were_asked_for() -> None:
    async with mock_engine("--pieces", "1") as (url, tree):
        direct, other = peer("direct", url), Peer("other", url, "", MODEL, tree)
        case = Case("", 0.005, False, 50)

        found = (await half_load([direct, other], case, turns=3, requests=100))["other"]

        assert found["requests"] == 102
        assert found["added_p99"] == pytest.approx(found["p99"] - found["direct_p99"], abs=0.002)
        low, high = found["added_p99_interval"]
        assert low <= high

        await turn(url, error={"500": 0.2})
        with pytest.raises(PeerFailed, match="HTTP 500"):
            await half_load([direct, other], case, turns=1, requests=50)
