from __future__ import annotations

import asyncio

import pytest

from serving.joining import AT_ONCE, Joined


class Wire(asyncio.Transport):
    """Keeps what it is given, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        assert not self.closed
        self.writes.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def joined(wire: Wire) -> Joined:
    return Joined(wire, asyncio.get_running_loop())


async def test_what_is_written_together_leaves_together(wire: Wire, joined: Joined) -> None:
    joined.write(b"head ")
    joined.write(b"body")
    assert wire.writes == []
    await asyncio.sleep(0)
    assert wire.writes == [b"head body"]


async def test_what_comes_apart_leaves_apart(wire: Wire, joined: Joined) -> None:
    for frame in (b"one", b"two"):
        joined.write(frame)
        await asyncio.sleep(0)
    assert wire.writes == [b"one", b"two"]


async def test_much_does_not_wait(wire: Wire, joined: Joined) -> None:
    joined.write(b"head")
    joined.write(bytes(AT_ONCE))
    assert wire.writes == [b"head" + bytes(AT_ONCE)]
    await asyncio.sleep(0)
    assert len(wire.writes) == 1


async def test_the_last_words_leave_before_the_end(wire: Wire, joined: Joined) -> None:
    joined.write(b"last words")
    joined.close()
    assert (wire.writes, wire.closed) == ([b"last words"], True)


@pytest.mark.parametrize("end", [Joined.abort, lambda joined: joined._transport.close()])
async def test_nothing_is_written_after_the_end(wire: Wire, joined: Joined, end: object) -> None:
    joined.write(b"never")
    end(joined)  # type: ignore[operator]
    await asyncio.sleep(0)
    assert wire.writes == []
