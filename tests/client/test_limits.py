from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from client.errors import ConfigurationError
from client.limits import Limits, Quota, published

ACCOUNT = ("https://dashscope.aliyuncs.com/api/v1", "account", "qwen3-vl-flash")


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "limits.sqlite"


@pytest.fixture
def limits(path: Path, clock: Clock) -> Iterator[Limits]:
    with closing(Limits(Quota(rpm=60), path, ACCOUNT, clock=clock)) as limits:
        yield limits


def test_a_request_per_second(limits: Limits, clock: Clock) -> None:
    assert [limits.reserve() for _ in range(4)] == [0, 1, 2, 3]
    clock.now += 3
    assert limits.reserve() == 1
    clock.now += 100
    assert [limits.reserve() for _ in range(2)] == [0, 1], (
        "what was not used is not kept: the cloud counts by the second"
    )


def test_two_runs_share_it(limits: Limits, path: Path, clock: Clock) -> None:
    with closing(Limits(Quota(rpm=60), path, ACCOUNT, clock=clock)) as other:
        assert [limits.reserve(), other.reserve(), limits.reserve(), other.reserve()] == [0, 1, 2, 3]


def test_other_accounts_have_their_own(limits: Limits, path: Path, clock: Clock) -> None:
    with closing(Limits(Quota(rpm=60), path, ("else", "where", "m"), clock=clock)) as other:
        assert (limits.reserve(), other.reserve()) == (0, 0)


def test_tokens_are_settled(path: Path, clock: Clock) -> None:
    with closing(Limits(Quota(tpm=60_000), path, ACCOUNT, clock=clock)) as limits:
        taken = limits.expected
        assert taken == 1_500
        assert limits.reserve() == 0.5, "a second's worth is there"
        limits.settle(2_500, taken)
        assert limits.expected == 1_600
        assert limits.reserve() == pytest.approx(3.1)


def test_the_clock_goes_back(limits: Limits, clock: Clock) -> None:
    limits.reserve()
    clock.now -= 3600
    assert limits.reserve() == 1


@pytest.mark.ring3
def test_processes_never_take_more_than_there_is(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from client.limits import *\n"
        f"limits = Limits(Quota(rpm=60), Path(sys.argv[1]), {ACCOUNT!r}, clock=lambda: 1000.0)\n"
        "print(*[limits.reserve() for _ in range(20)])"
    )
    command = [sys.executable, "-c", program, str(path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    waits = [float(wait) for process in processes for wait in process.communicate(timeout=25)[0].split()]
    assert sorted(waits) == list(range(40))


def test_the_key_is_not_written(limits: Limits, path: Path) -> None:
    limits.reserve()
    assert all(b"account" not in file.read_bytes() for file in path.parent.iterdir())


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="shared limits"):
        Limits(Quota(rpm=1), tmp_path / "file" / "x.sqlite", ACCOUNT)


@pytest.mark.parametrize(
    ("url", "model", "quota"),
    [
        (ACCOUNT[0], "qwen3-vl-flash", Quota(1200, 1_000_000)),
        ("https://dashscope-intl.aliyuncs.com/api/v1", "qwen-vl-max", Quota(1200, 1_000_000)),
        ("http://127.0.0.1:8000/api/v1", "qwen3-vl-flash", Quota()),
        (ACCOUNT[0], "unheard-of", Quota()),
    ],
)
def test_published(url: str, model: str, quota: Quota) -> None:
    assert published(url, model) == quota
