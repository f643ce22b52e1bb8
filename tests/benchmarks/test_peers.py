from __future__ import annotations

from itertools import islice

import pytest

from benchmarks.peers.measure import CASES, Case, against_direct, cpu, fresh, rotated
from benchmarks.peers.stacks import MODEL, Peer
from benchmarks.processes import mock_engine


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


@pytest.mark.timeout(60)
async def test_the_cpu_of_a_process_is_told_for_each_request() -> None:
    """The engine itself as if it were a gateway."""
    async with mock_engine("--pieces", "1") as (url, tree):
        direct, other = peer("direct", url), Peer("other", url, "", MODEL, tree)

        found = await cpu([direct, other], Case("", 0.005, False, 800), turns=1)

    assert found["direct"]["median"] == 0.0
    assert 0.0 < found["other"]["median"] < 50.0
