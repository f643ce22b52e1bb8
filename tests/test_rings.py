from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from tests.rings import Guard, ring_of


def test_a_test_is_of_ring_two_unless_it_says_more(request: pytest.FixtureRequest) -> None:
    assert ring_of(request.node) == 2


@pytest.mark.ring3
def test_the_mark_says_so(request: pytest.FixtureRequest) -> None:
    assert ring_of(request.node) == 3


@pytest.fixture
def server(ring3: None) -> None: ...


@pytest.mark.usefixtures("server")
def test_a_fixture_says_so(request: pytest.FixtureRequest) -> None:
    assert ring_of(request.node) == 3


@pytest.mark.ring3
def test_what_ring_two_must_not_do_is_noticed() -> None:
    guard = Guard()
    guard.begin(2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
    subprocess.run([sys.executable, "-c", ""], check=True)
    seen = guard.end()
    assert [each.split()[0] for each in seen] == ["socket.bind", "subprocess.Popen"]


@pytest.mark.ring3
def test_what_ring_two_may_do_is_not() -> None:
    guard = Guard()
    guard.begin(2)
    subprocess.run(["uname"], check=True, stdout=subprocess.DEVNULL)
    near, far = socket.socketpair()
    near.close()
    far.close()
    assert guard.end() == []
    guard.begin(3)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
    assert guard.end() == []
